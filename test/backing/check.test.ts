/** checkImage and repairImage: by path, and in an open file. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { checkImage, repairImage } from "../../src/backing/check.ts"
import { createImage } from "../../src/backing/create.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { openImage } from "../../src/backing/open.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { failureOf } from "./qcow2/small-images.ts"

/** An image with one leaked cluster: the refcount of the last one, which is there and in use by nobody. */
function leaky(): string {
  const path = join(temporaryDirectory(), "disk.qcow2")
  createImage(path, { size: 1 << 20 })
  const bytes = Buffer.concat([readFileSync(path), Buffer.alloc(65536)])
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))))
  bytes.writeUInt16BE(1, block + 2 * (bytes.length / 65536 - 1))
  writeFileSync(path, bytes)
  return path
}

describe("checkImage and repairImage", () => {
  it("take a path or an open file, which stays open", () => {
    const path = leaky()
    expect(checkImage(path)).toMatchObject({ exitCode: 3, leaks: 1 })
    const file = new HostFile(path)
    expect(checkImage(file)).toMatchObject({ exitCode: 3, leaks: 1 })
    expect(repairImage(file, "leaks")).toMatchObject({ exitCode: 0, leaksFixed: 1 })
    expect(file.size()).toBeGreaterThan(0)
    file.close()
    expect(checkImage(path).exitCode).toBe(0)

    const other = leaky()
    expect(repairImage(other, "all")).toMatchObject({ exitCode: 0, leaksFixed: 1 })
    expect(checkImage(other).exitCode).toBe(0)
  })

  it("refuse a path whose image another opening holds, unless ignoreLocks is set, and leave no lock behind", () => {
    const path = leaky()
    const image = openImage(path)
    expect(failureOf(() => checkImage(path)).code).toBe("busy")
    expect(failureOf(() => repairImage(path, "all")).code).toBe("busy")
    expect(checkImage(path, { ignoreLocks: true }).exitCode).toBe(3)
    image.close()
    const reader = openImage(path, { readOnly: true })
    expect(checkImage(path).exitCode).toBe(3)
    expect(failureOf(() => repairImage(path, "all")).code).toBe("busy")
    reader.close()
    openImage(path).close()
  })

  it("refuse a raw image, which has nothing to check, and a missing one", () => {
    const path = join(temporaryDirectory(), "disk.raw")
    createImage(path, { format: "raw", size: 4096 })
    const { code, message } = failureOf(() => checkImage(path))
    expect([code, message]).toEqual(["unsupported", `${path}: it is not a qcow2 image; a raw one has nothing to check`])
    expect(failureOf(() => repairImage(`${path}2`, "all")).code).toBe("not-found")
  })
})
