/** Sizes as qemu-img takes them. */
import { spawnSync } from "node:child_process"
import { existsSync, rmSync, statSync } from "node:fs"
import { join } from "node:path"
import { expect } from "vitest"
import { itWithQemu } from "../../support/qemu.ts"
import { SIZES } from "../../vmm/cli/sizes.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

itWithQemu("every size is parsed as by qemu-img", () => {
  const path = join(temporaryDirectory(), "x")
  for (const [text, size] of SIZES) {
    // More than the host's file system has room for says nothing.
    if ((size ?? 0) > 2 ** 43) continue
    const { status } = spawnSync("qemu-img", ["create", "-q", "-f", "raw", path, "--", text])
    expect([text, status === 0]).toEqual([text, size !== undefined])
    if (size !== undefined) expect([text, statSync(path).size]).toEqual([text, Math.ceil(size / 512) * 512])
    if (existsSync(path)) rmSync(path)
  }
})
