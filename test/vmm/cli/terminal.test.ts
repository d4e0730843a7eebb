/** What the command line says of odd, damaged or hostile images: why a request failed, and nothing that a terminal obeys. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { inspect } from "node:util"
import { describe, expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { toJson } from "../../../src/vmm/cli/output.ts"
import { COMPRESSED, failureOf } from "../../backing/qcow2/small-images.ts"
import { commandLine } from "../../support/command-line.ts"
import { goldenBytes } from "../../support/golden.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

/** Sets a title, clears the screen by a control character above 0x7f, and turns the rest of the line around. */
const HOSTILE = "a\u001b]0;x\u0007\u009b2J\u202ez"
/** What must not reach a terminal. Lines end where we end them. */
const OBEYED = /[\p{Cf}\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/u

describe("names with control characters", () => {
  it("are printed without them by every command, and whole as JSON", async () => {
    const directory = temporaryDirectory()
    const path = join(directory, `top${HOSTILE}`)
    const file = new MemoryFile()
    createQcow2(file, { size: 65536, backing: HOSTILE, backingFormat: "raw" })
    file.save(path)
    createImage(join(directory, HOSTILE), { format: "raw", size: 65536 })
    for (const command of [["info"], ["map"], ["check"], []]) {
      const { code, out, err } = await commandLine(...command, path)
      expect([code, err], command.join()).toEqual([0, ""])
      expect(out).not.toMatch(OBEYED)
    }
    const info = (await commandLine("info", "--json", path)).out
    expect(info).not.toMatch(OBEYED)
    expect(JSON.parse(info)).toMatchObject({ filename: path, "backing-filename": HOSTILE })
    expect((await commandLine("map", "--json", path)).out).not.toMatch(OBEYED)
    const missing = await commandLine("info", join(directory, `gone${HOSTILE}`))
    expect([missing.code, missing.err]).toEqual([1, expect.not.stringMatching(OBEYED)])
    expect((await commandLine("create", join(directory, `new${HOSTILE}`), "1M")).out).not.toMatch(OBEYED)
    expect((await commandLine("create", `--${HOSTILE}`)).err).not.toMatch(OBEYED)
  })

  it("are printed without them also for snapshots", async () => {
    const bytes = goldenBytes("snapshots.qcow2")
    const image = new Qcow2Bytes(bytes)
    const path = join(temporaryDirectory(), "disk.qcow2")
    // The name of the first snapshot stands behind its fixed part, its extra data and its id.
    const entry = image.snapshotsOffset
    const name = entry + 40 + image.u32(entry + 36) + ((image.u8(entry + 12) << 8) | image.u8(entry + 13))
    image.bytes.set([0x1b, 0x5b, 0x6d], name)
    writeFileSync(path, image.bytes)
    const { code, out } = await commandLine("info", path)
    expect([code, out]).toEqual([0, expect.stringContaining("\ufffd[m")])
    expect(out).not.toMatch(OBEYED)
  })

  it("are not printed in the cause of an uncaught error either", async () => {
    const error = failureOf(() => openImage(join(temporaryDirectory(), HOSTILE)))
    expect(inspect(error)).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/)
  })

  it("are escaped in JSON", async () => {
    const value = { [HOSTILE]: [`${HOSTILE}\u{e0001}`] }
    expect(toJson(value)).not.toMatch(OBEYED)
    expect(JSON.parse(toJson(value, 2))).toEqual(value)
  })

  it("reach the terminal only through output.ts", async () => {
    const folder = "src/vmm/cli"
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
    const printing = files.filter((name) => /console\.|process\.stdout\.write/.test(readFileSync(join(folder, name), "utf8")))
    expect(printing).toEqual(["output.ts"])
  })
})

describe("the reason of a failed request", () => {
  it("names the file, the offset and what to do, for a damaged table", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    // An L2 table that is not on a cluster.
    image.setU64(image.l1Offset, image.u64(image.l1Offset) | 0x200n)
    writeFileSync(path, image.bytes)
    const { code, out, err } = await commandLine(path)
    expect([code, out]).toEqual([1, ""])
    expect(err).toMatch(/^vioblk: IN at sector 0 failed: .*disk\.qcow2: .*L1.*; "vioblk check" lists all damage\n$/)
  })

  it("names the file and the offset, for a damaged cluster of a backing file", async () => {
    const directory = temporaryDirectory()
    const base = join(directory, "base.qcow2")
    const image = new Qcow2Bytes(goldenBytes("zlib-4k.qcow2"))
    const entries = Array.from({ length: image.size / 4096 }, (_, index) => image.l2(index * 4096))
    const compressed = entries.find((entry) => (entry & COMPRESSED) !== 0n) ?? 0n
    const at = Number(compressed & ((1n << 58n) - 1n))
    image.bytes.fill(0xff, at, at + 8)
    writeFileSync(base, image.bytes)
    createImage(join(directory, "top.qcow2"), { backing: "base.qcow2", backingFormat: "qcow2" })
    const { code, err } = await commandLine(join(directory, "top.qcow2"))
    expect(code).toBe(1)
    expect(err).toMatch(/^vioblk: IN at sector \d+ failed: .*base\.qcow2: the compressed cluster at byte \d+ cannot be/)
  })
})
