/** Raw LUKS images as disks: what lies under them are no zeroes, and not where the guest sees it. */
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { EncryptedFile } from "../../../src/backing/luks/encrypted-file.ts"
import { makeCipher } from "../../../src/backing/luks/make-cipher.ts"
import type { LuksOptions } from "../../../src/backing/luks/new-volume.ts"
import { writeVolume } from "../../../src/backing/luks/raw-luks.ts"
import type { SectorCipher } from "../../../src/backing/luks/sector-cipher.ts"
import { unlockVolume } from "../../../src/backing/luks/volume.ts"
import { openImage } from "../../../src/backing/open.ts"
import { convertToImage } from "../../../src/backing/operations/convert/convert-image.ts"
import { openSource } from "../../../src/backing/operations/convert/source-image.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { partsOf } from "../../../src/vmm/cli/disk-map/parts.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { contractSuite } from "../../contract/suite.ts"
import { modelOf } from "../../support/images.ts"

const encryption = { passphrase: "abc", cipher: "aes-128", mode: "cbc", iterTime: 1 } as const
const cryptography = { ...nodeCryptography, countIterations: () => 1 }

interface Made {
  readonly file: MemoryFile
  readonly payloadOffset: number
  readonly cipher: SectorCipher
}

/** By size: each key costs as much as a hundred tests. */
const made = new Map<number, Made>()

function make(size: number): Made {
  const file = new MemoryFile({ path: "luks" })
  writeVolume(file, { size, encryption }, cryptography)
  const { header, key } = unlockVolume({ file, offset: 0, length: file.size() }, { passphrase: "abc", cryptography })
  const result = { file, payloadOffset: header.payloadOffset, cipher: makeCipher(header.cipher, key, cryptography) }
  made.set(size, result)
  return result
}

contractSuite({
  name: "a raw LUKS image",
  open(size) {
    const { file, payloadOffset, cipher } = made.get(size) ?? make(size)
    const disk = new RawBacking(new EncryptedFile(file.clone(), { payloadOffset, cipher }))
    // What was never written reads as anything.
    return { disk, model: modelOf(disk) }
  },
})

describe("a raw LUKS image", () => {
  it("QC-LUKS-08 holes of the file are not zeroes of the disk: copies read them, and the map calls them data", async () => {
    const path = join(temporaryDirectory(), "luks")
    createImage(path, { format: "luks", size: 1 << 20, encryption })
    const disk = openImage(path, { format: "luks", passphrase: "abc" })
    const written = new Uint8Array(4096).fill(7)
    disk.pwrite(written, 512 << 10)
    const wanted = new Uint8Array(disk.size)
    disk.pread(wanted, 0)
    expect([...partsOf(disk, { offset: 0, length: disk.size })]).toMatchObject([{ start: 0, length: 1 << 20, data: true, zero: false }])
    disk.close()
    expect(wanted.subarray(0, 4096).some((byte) => byte !== 0)).toBe(true)
    const source = openSource(path, { format: "luks", passphrase: "abc" })
    expect(await source.allocation?.(0, source.size)).not.toMatchObject({ isZero: true })
    const found = new Uint8Array(source.size)
    void source.pread(found, 0)
    expect(Buffer.from(found).equals(wanted)).toBe(true)
    void source.close()
  })

  it("QC-LUKS-08 a conversion also writes zeroes into a new LUKS image, which does not read as zeroes by itself", async () => {
    const path = join(temporaryDirectory(), "luks")
    await convertToImage(new MemoryBacking({ size: 1 << 20 }), path, { format: "luks", encryption })
    using disk = openImage(path, { format: "luks", passphrase: "abc" })
    const found = new Uint8Array(disk.size).fill(1)
    disk.pread(found, 0)
    expect(found.every((byte) => byte === 0)).toBe(true)
  })

  it("opens as LUKS only when the format is stated: a raw disk may hold a guest's own encryption", () => {
    const path = join(temporaryDirectory(), "luks")
    createImage(path, { format: "luks", size: 4096, encryption })
    using raw = openImage(path, { readOnly: true })
    const start = new Uint8Array(4)
    raw.pread(start, 0)
    expect(new TextDecoder().decode(start)).toBe("LUKS")
  })

  it("QC-LUKS-06 CAST5 uses CBC and an ESSIV of md5, and modes and digests that it cannot have are refused", () => {
    const make = (options: Partial<LuksOptions>): MemoryFile => {
      const file = new MemoryFile({ path: "luks" })
      writeVolume(file, { size: 4096, encryption: { passphrase: "abc", cipher: "cast5-128", iterTime: 1, ...options } }, cryptography)
      return file
    }
    expect(Buffer.from(make({}).toBytes()).toString("latin1", 0, 64)).toMatch(/cast5\0.*cbc-essiv:md5\0/)
    expect(() => make({ mode: "xts" })).toThrow(/cast5 has blocks of 8 bytes/)
    expect(() => make({ ivHash: "sha256" })).toThrow(/sha256 has 32 bytes, and no key of cast5 has that length/)
    expect(() => make({ ivGenerator: "plain64" })).toThrow(/use essiv/)
  })

  it("needs a passphrase to be made, and takes no option of qcow2", () => {
    const path = join(temporaryDirectory(), "luks")
    expect(() => createImage(path, { format: "luks", size: 4096 })).toThrow(/needs the option encryption/)
    expect(() => createImage(path, { format: "luks", size: 4096, encryption, clusterSize: 4096 })).toThrow(/no option "clusterSize"/)
    expect(
      () => createImage(path, { format: "luks", size: 4096, encryption: { ...encryption, ivGenerator: "plain64" } }),
    ).toThrow(/use essiv/)
    expect(() => createImage(path, { format: "luks", size: 4096, encryption: { ...encryption, iterTime: 0 } })).toThrow(/iterTime/)
  })
})
