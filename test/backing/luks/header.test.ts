/** The LUKS header: parsed, written, and refused where it cannot be right. Offsets are typed in from the format's text. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { parseLuksHeader, serialiseLuksHeader } from "../../../src/backing/luks/header.ts"
import { unlockFile, writeVolume } from "../../../src/backing/luks/raw-luks.ts"
import { unlockVolume } from "../../../src/backing/luks/volume.ts"
import { MemoryFile } from "../../support/memory-file.ts"

const cryptography = { ...nodeCryptography, countIterations: () => 1 }

function newVolume(): Uint8Array {
  const file = new MemoryFile({ path: "luks" })
  writeVolume(file, { size: 4096, encryption: { passphrase: "abc", cipher: "aes-128", mode: "cbc", hash: "sha1" } }, cryptography)
  return file.toBytes()
}

const volume = newVolume()

type Change = (view: DataView, bytes: Uint8Array) => void

function changed(change: Change): Uint8Array {
  const bytes = volume.slice()
  change(new DataView(bytes.buffer), bytes)
  return bytes
}

function refusal(bytes: Uint8Array): string {
  try {
    unlockFile(MemoryFile.of(bytes, { path: "luks" }), { passphrase: "abc", cryptography })
  } catch (error) {
    if (error instanceof BackingError) return `${error.code}: ${error.message}`
    throw error
  }
  return "opened"
}

const slot = (number: number): number => 208 + 48 * number

describe("the LUKS header", () => {
  it("QC-LUKS-02 the fields are at the offsets of the format, and a header is written as it was read", () => {
    const view = new DataView(volume.buffer)
    const text = (at: number, length: number): string => Buffer.from(volume.subarray(at, at + length)).toString("latin1")
    expect(text(0, 6)).toBe("LUKS\xba\xbe")
    expect(view.getUint16(6)).toBe(1)
    expect(text(8, 5)).toBe("aes\0\0")
    expect(text(40, 18)).toBe("cbc-essiv:sha256\0\0")
    expect(text(72, 5)).toBe("sha1\0")
    expect(view.getUint32(108)).toBe(16)
    expect(text(168, 40)).toMatch(/^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}\0{4}$/)
    // Slots of 64000 bytes, each at a multiple of 4096.
    expect(Array.from({ length: 8 }, (_, number) => view.getUint32(slot(number) + 40))).toEqual([8, 136, 264, 392, 520, 648, 776, 904])
    expect(view.getUint32(104)).toBe(1032)
    expect(Array.from({ length: 8 }, (_, number) => view.getUint32(slot(number)))).toEqual([0x00ac_71f3, ...Array(7).fill(0xdead)])
    expect(view.getUint32(slot(0) + 44)).toBe(4000)
    const header = parseLuksHeader(volume, { path: "luks", offset: 0 })
    expect([...serialiseLuksHeader(header)]).toEqual([...volume.subarray(0, 592)])
  })

  it.each<[string, Change, RegExp]>([
    ["another magic", (view) => view.setUint8(0, 0x4d), /invalid-format: luks: LUKS header, byte 0: .*does not begin/],
    ["LUKS2", (view) => view.setUint16(6, 2), /unsupported: .*byte 6: LUKS version 2/],
    ["another cipher", (_, bytes) => bytes.set([0x73], 8), /unsupported: .*the cipher "ses"/],
    [
      "a cipher's name without an end", (_, bytes) => bytes.fill(0x61, 8, 40),
      /invalid-format: .*byte 8: the cipher's name has no NUL at its end/,
    ],
    ["a mode without an end", (_, bytes) => bytes.fill(0x61, 40, 72), /invalid-format: .*byte 40: .*has no NUL at its end/],
    ["an unknown mode", (_, bytes) => bytes.set([0x78], 40), /unsupported: .*"xbc-essiv:sha256"/],
    ["a hash without an end", (_, bytes) => bytes.fill(0x61, 72, 104), /invalid-format: .*byte 72: .*has no NUL at its end/],
    ["an unknown hash", (_, bytes) => bytes.set([0x39], 75), /unsupported: .*the hash "sha9"/],
    ["a UUID without an end", (_, bytes) => bytes.fill(0x61, 168, 208), /invalid-format: .*byte 168: .*has no NUL at its end/],
    ["a payload over the header", (view) => view.setUint32(104, 7), /invalid-format: .*byte 104: the payload overlaps the header/],
    ["no key", (view) => view.setUint32(108, 0), /unsupported: .*a key of 0 bytes/],
    ["a key of 4 GiB", (view) => view.setUint32(108, 0xffff_ffff), /unsupported: .*a key of 4294967295 bytes/],
    ["no iterations of the digest", (view) => view.setUint32(164, 0), /invalid-format: .*byte 164: the number of iterations is 0/],
    ["too many of them", (view) => view.setUint32(164, 2 ** 25 + 1), /unsupported: .*33554433 iterations/],
    ["no iterations of a slot", (view) => view.setUint32(slot(0) + 4, 0), /invalid-format: .*byte 212: the number of iterations is 0/],
    ["too many of them", (view) => view.setUint32(slot(0) + 4, 0xffff_ffff), /unsupported: .*4294967295 iterations/],
    ["a slot neither active nor inactive", (view) => view.setUint32(slot(3), 1), /invalid-format: .*the state of a key slot is 0x1/],
    ["few stripes", (view) => view.setUint32(slot(0) + 44, 3999), /invalid-format: .*3999 stripes, which must be 4000/],
    ["many stripes", (view) => view.setUint32(slot(7) + 44, 0xffff_ffff), /invalid-format: .*4294967295 stripes/],
    ["key material over the header", (view) => view.setUint32(slot(0) + 40, 7), /invalid-format: .*slot 0 overlaps the header/],
    ["key material over the payload", (view) => view.setUint32(slot(7) + 40, 908), /invalid-format: .*slot 7 overlaps the payload/],
    ["key material 2 TiB away", (view) => view.setUint32(slot(0) + 40, 0xffff_ffff), /invalid-format: .*slot 0 overlaps the payload/],
    [
      "key material over that of another slot",
      (view) => view.setUint32(slot(2) + 40, 260),
      /invalid-format: .*slot 1 overlaps that of slot 2/,
    ],
  ])("QC-LUKS-06 %s is refused, and the message names the byte", (_, change, message) => {
    expect(refusal(changed(change))).toMatch(message)
  })

  it("QC-LUKS-06 QC-LIM-05 eight slots together may not take longer than four slots at the limit", () => {
    const many = changed((view) => {
      for (let number = 0; number < 8; number++) {
        view.setUint32(slot(number), 0x00ac_71f3)
        view.setUint32(slot(number) + 4, 2 ** 25)
      }
    })
    expect(refusal(many)).toMatch(/unsupported: .*more than the limit of 134217728/)
  })

  it("QC-LUKS-06 QC-LIM-05 the limit of iterations counts them once for each digest that the key is made of", () => {
    const file = new MemoryFile({ path: "luks" })
    writeVolume(file, { size: 4096, encryption: { passphrase: "abc", cipher: "aes-256", mode: "xts", hash: "sha1" } }, cryptography)
    const bytes = file.toBytes()
    const view = new DataView(bytes.buffer)
    // Two slots of four times 2^24, and twice the digest.
    for (const number of [0, 1]) {
      view.setUint32(slot(number), 0x00ac_71f3)
      view.setUint32(slot(number) + 4, 2 ** 24)
    }
    const digest = view.getUint32(164)
    expect(refusal(bytes)).toBe(
      `unsupported: luks: its key slots take ${2 ** 27 + 2 * digest} iterations of key derivation, more than the limit of 134217728`,
    )
  })

  it("QC-LUKS-06 a file that ends in its header or key material is refused", () => {
    expect(refusal(volume.slice(0, 591))).toMatch(/invalid-format: luks: the file ends in its LUKS header, at byte 591/)
    expect(refusal(volume.slice(0, 70_000))).toMatch(/invalid-format: .*its key slots end at byte/)
  })

  it("QC-LUKS-05 a volume without an active slot is told from a wrong passphrase", () => {
    expect(refusal(changed((view) => view.setUint32(slot(0), 0xdead)))).toMatch(/permission: .*there is no active key slot/)
  })

  it("QC-LUKS-03 a header may lie anywhere in a file: its offsets count from the header", () => {
    const file = MemoryFile.of(new Uint8Array([...new Uint8Array(12_288), ...volume.subarray(0, 528_384)]), { path: "far" })
    const { slot: opened, key } = unlockVolume({ file, offset: 12_288, length: 528_384 }, { passphrase: "abc", cryptography })
    expect({ opened, length: key.length }).toEqual({ opened: 0, length: 16 })
  })

  it("QC-LUKS-06 a hash that this platform lacks is refused", () => {
    const file = MemoryFile.of(volume, { path: "luks" })
    const without = { ...cryptography, hasHash: () => false }
    expect(
      () => unlockFile(file, { passphrase: "abc", cryptography: without }),
    ).toThrow(/the hash "sha1" is not supported by this platform/)
  })
})
