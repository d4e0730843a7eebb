/** `vioblk demo`: a disk that a BIOS boots from. test/linux boots one. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { commandLine } from "../../support/command-line.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

describe("vioblk demo", { timeout: 120_000 }, () => {
  it("makes a disk with a boot sector, a partition and a text, and overwrites nothing", async () => {
    const path = join(temporaryDirectory(), "demo.raw")
    expect(await commandLine("demo", "-f", "raw", "--text", "hello,\nBIOS", path)).toMatchObject({ code: 0, err: "" })
    const disk = readFileSync(path)
    expect(disk.length).toBe(2 << 20)
    expect([disk[0], disk[510], disk[511]]).toEqual([0xfa, 0x55, 0xaa])
    // Calls and jumps of the program go where its parts are: the text of the failure, and the packet with sector 16.
    expect(disk.subarray(0x57, 0x57 + 14).toString("latin1")).toBe("INT 13h failed")
    expect(disk.readUInt16LE(0x0f)).toBe(0x7c47)
    expect([disk[0x47], disk.readUInt16LE(0x49), disk.readUInt16LE(0x4b), disk.readUInt32LE(0x4f)]).toEqual([16, 8, 0x8000, 16])
    expect(disk.subarray(16 * 512, 16 * 512 + 13).toString("latin1")).toBe("hello,\r\nBIOS\0")
    expect((await commandLine("run", "-f", "raw", path)).out).toMatch(
      /table {5}MBR, 1 partition\n {3}1 {6}sectors 2048 to 4095, 1 MiB, type da, bootable/,
    )
    expect((await commandLine("demo", path)).code).toBe(1)
    expect(readFileSync(path).equals(disk)).toBe(true)
  })

  it("makes a qcow2 image by default, and refuses a text that no BIOS shows", async () => {
    const path = join(temporaryDirectory(), "demo.qcow2")
    expect(await commandLine("demo", "--text", "\u00e4", path)).toMatchObject({ code: 1, err: expect.stringContaining("ASCII") })
    expect((await commandLine("demo", path)).out).toContain("qcow2")
    expect(JSON.parse((await commandLine("info", "--json", path)).out)).toMatchObject({ format: "qcow2", "virtual-size": 2 << 20 })
    expect((await commandLine("check", path)).code).toBe(0)
  })
})
