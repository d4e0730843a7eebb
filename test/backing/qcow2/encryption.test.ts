/** Encrypted qcow2 images: where they are encrypted and where not, what opens them, and what is refused. */
import { createCipheriv } from "node:crypto"
import { describe, expect, it } from "vitest"
import { createQcow2 } from "../../../src/backing/host/create-qcow2.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { checkImage } from "../../../src/backing/check-file.ts"
import { openQcow2Image } from "../../../src/backing/qcow2/open.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { Rng } from "../../support/rng.ts"

const CLUSTER = 4096
const ENCRYPTION_EXTENSION = 0x0537_be77
const encryption = { passphrase: "open sesame", cipher: "aes-128", iterTime: 1 } as const

/** An encrypted image; its bytes are compared, so it is made once. */
let made: MemoryFile | undefined
function luks(): MemoryFile {
  if (made === undefined) createQcow2((made = new MemoryFile({ path: "luks.qcow2" })), { size: 1 << 20, clusterSize: CLUSTER, encryption })
  return made.clone()
}

/** As QEMU's old AES has it: only the header says so. */
function oldAes(): MemoryFile {
  const file = new MemoryFile({ path: "aes.qcow2" })
  createQcow2(file, { size: 1 << 20, clusterSize: CLUSTER })
  file.write(Uint8Array.of(0, 0, 0, 1), 32)
  return file
}

const secret = new Rng(5).bytes(CLUSTER)

function backingError(work: () => unknown): BackingError {
  try {
    work()
  } catch (error) {
    if (error instanceof BackingError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

function read(disk: { pread(buffer: Uint8Array, offset: number): void }, offset: number, length: number): number[] {
  const bytes = new Uint8Array(length)
  disk.pread(bytes, offset)
  return [...bytes]
}

describe("the old AES", () => {
  it("QC-AES-01 QC-HDR-13 a sector is encrypted by AES-128-CBC with its number on the disk as IV, wherever its cluster lies", () => {
    const file = oldAes()
    const disk = openQcow2(file, { passphrase: "abc" })
    // The first cluster of the file goes to the last one of the disk: numbers of the two differ.
    disk.pwrite(secret, (1 << 20) - CLUSTER)
    disk.close()
    const stored = new Uint8Array(512)
    file.clone().read(stored, new Qcow2Bytes(file.toBytes()).hostOffset((1 << 20) - CLUSTER) + 512)
    const iv = Buffer.alloc(16)
    iv.writeUInt32LE(((1 << 20) - CLUSTER) / 512 + 1)
    const key = Buffer.alloc(16)
    key.write("abc")
    const cipher = createCipheriv("aes-128-cbc", key, iv).setAutoPadding(false)
    expect([...stored]).toEqual([...cipher.update(secret.subarray(512, 1024))])
  })

  it.each([["abc", "abc"], ["0123456789abcdef", "0123456789abcdef"], ["0123456789abcdef0123", "0123456789abcdefXYZ"]])(
    "QC-AES-02 the key is the first 16 bytes of the passphrase %s, padded with zeroes: %s opens it too", (passphrase, other) => {
      const file = oldAes()
      using disk = openQcow2(file, { passphrase })
      disk.pwrite(secret, 0)
      disk.flush()
      expect(read(openQcow2(file.clone(), { passphrase: other }), 0, CLUSTER)).toEqual([...secret])
      expect(read(openQcow2(file.clone(), { passphrase: "another" }), 0, CLUSTER)).not.toEqual([...secret])
    })
})

describe("encryption", () => {
  for (const [name, make] of [["LUKS", luks], ["the old AES", oldAes]] as const) {
    it(`QC-AES-03 QC-CMP-13 ${name}: covers data, not tables; compressed clusters are refused, and zeroes need no key`, () => {
      const file = make()
      const disk = openQcow2(file, { passphrase: encryption.passphrase })
      disk.pwrite(secret, 0)
      const text = new Uint8Array(CLUSTER).fill(0x41)
      disk.writeCompressed(text, CLUSTER)
      disk.writeZeroes(2 * CLUSTER, CLUSTER, false)
      disk.close()
      expect(Buffer.from(file.toBytes()).includes(Buffer.from(secret.subarray(0, 32)))).toBe(false)
      expect(checkImage(file.clone()).corruptions + checkImage(file.clone()).leaks).toBe(0)
      const asPlain = new Qcow2Bytes(file.toBytes()).setU32(32, 0).bytes
      if (name === "LUKS") return
      // Without the cipher everything but data reads as before.
      const plain = openQcow2(MemoryFile.of(asPlain, { readOnly: true }))
      expect(read(plain, CLUSTER, CLUSTER)).toEqual([...text])
      expect(read(plain, 2 * CLUSTER, CLUSTER)).toEqual([...new Uint8Array(CLUSTER)])
      expect(read(plain, 0, CLUSTER)).not.toEqual([...secret])
    })

    it(`QC-LUKS-08 ${name}: keeps the bytes around writes that begin and end inside sectors`, () => {
      const file = make()
      const disk = openQcow2(file, { passphrase: encryption.passphrase })
      const wanted = new Uint8Array(5 * CLUSTER)
      const rng = new Rng(8)
      for (let round = 0; round < 40; round++) {
        const offset = rng.below(wanted.length - 1)
        const bytes = rng.bytes(1 + rng.below(Math.min(3000, wanted.length - offset)))
        wanted.set(bytes, offset)
        disk.pwritev([bytes.subarray(0, 1), bytes.subarray(1)], offset)
      }
      expect(read(disk, 0, wanted.length)).toEqual([...wanted])
      expect(read(disk, 1021, 7)).toEqual([...wanted.subarray(1021, 1028)])
      disk.close()
      expect(read(openQcow2(file.clone(), { passphrase: encryption.passphrase }), 0, wanted.length)).toEqual([...wanted])
    })
  }

  it("QC-AES-03 the backing image is read as it is, and its data is encrypted when it is copied up", () => {
    const file = new MemoryFile({ path: "overlay" })
    createQcow2(file, { size: 1 << 20, clusterSize: CLUSTER, backing: "base", backingFormat: "raw", encryption })
    const base = new Rng(6).bytes(1 << 20)
    const openBacking = () => ({
      size: base.length,
      pread: (buffer: Uint8Array, offset: number) => buffer.set(base.subarray(offset, offset + buffer.length)),
      preadv: (buffers: readonly Uint8Array[], offset: number) => {
        for (const buffer of buffers) {
          buffer.set(base.subarray(offset, offset + buffer.length))
          offset += buffer.length
        }
      },
      close: () => undefined,
    })
    const disk = openQcow2(file, { passphrase: encryption.passphrase, openBacking })
    disk.pwrite(Uint8Array.of(1, 2, 3), 5000)
    base.set([1, 2, 3], 5000)
    expect(read(disk, 0, 3 * CLUSTER)).toEqual([...base.subarray(0, 3 * CLUSTER)])
    disk.close()
    expect(Buffer.from(file.toBytes()).includes(Buffer.from(base.subarray(6000, 6032)))).toBe(false)
  })
})

describe("opening", () => {
  it("QC-LUKS-05 QC-EXT-10 the passphrase may be text, bytes or a function; errors say what is wrong with another", () => {
    const file = luks()
    const asked: unknown[] = []
    const bytes = new TextEncoder().encode(encryption.passphrase)
    for (const passphrase of [encryption.passphrase, bytes, (image: unknown) => (asked.push(image), bytes)]) {
      openQcow2(file.clone(), { passphrase }).close()
    }
    expect(asked).toEqual([{ path: "luks.qcow2", encryption: "luks" }])
    expect(backingError(() => openQcow2(file, { passphrase: "open sesam" }))).toMatchObject({
      code: "permission", message: "luks.qcow2: the passphrase is wrong: it opens none of the active key slots (0)",
    })
    expect(backingError(() => openQcow2(file))).toMatchObject({
      code: "invalid-argument", message: expect.stringContaining("passphrase is needed"),
    })
    expect(() => openQcow2(file, { passphrase: 7 as never })).toThrow(TypeError)
    expect(() => openQcow2(file, { passphrase: (() => undefined) as never })).toThrow(/what the option passphrase returned must be/)
  })

  it("QC-LUKS-05 on a platform that derives keys later the error names openDisk", () => {
    const refusal = { code: "unsupported", message: expect.stringMatching(/cannot derive its key synchronously; use openDisk/) }
    expect(backingError(() => openQcow2Image(luks(), { passphrase: encryption.passphrase }))).toMatchObject(refusal)
  })

  it("QC-LUKS-05 openDisk waits for a passphrase that is a promise, over a file that answers later", async () => {
    const written = luks()
    const writable = openQcow2(written, { passphrase: encryption.passphrase })
    writable.pwrite(secret, 0)
    writable.close()
    const file = written.clone()
    const late = {
      path: "late", readOnly: true,
      size: () => Promise.resolve(file.size()),
      read: (buffer: Uint8Array, offset: number) => Promise.resolve(file.read(buffer, offset)),
      close: () => Promise.resolve(),
    }
    await using disk = await openDisk(late, { passphrase: () => Promise.resolve(encryption.passphrase), pageCacheSize: 1 << 16 })
    const bytes = new Uint8Array(CLUSTER)
    await disk.pread(bytes, 0)
    expect([...bytes]).toEqual([...secret])
    await expect(openDisk(late, { passphrase: "wrong" })).rejects.toMatchObject({ code: "permission" })
  })

  it("QC-LUKS-01 QC-LUKS-07 QC-REF-04 the header is aligned, its clusters are counted, and key material is where QEMU puts it", () => {
    const file = new MemoryFile({ path: "default" })
    createQcow2(file, { size: 1 << 20, encryption: { passphrase: "x", iterTime: 1 } })
    const image = new Qcow2Bytes(file.toBytes())
    const at = image.extensionAt(ENCRYPTION_EXTENSION)
    expect({ length: image.u64(at + 8), aligned: image.u64(at) % 65536n }).toEqual({ length: 2_068_480n, aligned: 0n })
    expect(checkImage(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    // QEMU's layout for a key of 64 bytes.
    const header = Number(image.u64(at))
    expect(image.u32(header + 104)).toBe(4040)
    const sectors = Array.from({ length: 8 }, (_, slot) => image.u32(header + 208 + 48 * slot + 40))
    expect(sectors).toEqual([8, 512, 1016, 1520, 2024, 2528, 3032, 3536])
  })

  it.each([["first", 0], ["second", 1], ["last", -1]])(
    "QC-OVL-01 QC-LUKS-07 guest data do not overwrite the %s cluster of the header, though an L2 entry names it", (_, which) => {
      const file = luks()
      const first = openQcow2(file, { passphrase: encryption.passphrase })
      first.pwrite(secret, 0)
      first.close()
      const image = new Qcow2Bytes(file.toBytes())
      const at = image.extensionAt(ENCRYPTION_EXTENSION)
      const [header, length] = [Number(image.u64(at)), Number(image.u64(at + 8))]
      const place = header + (which < 0 ? Math.ceil(length / CLUSTER) + which : which) * CLUSTER
      const damaged = MemoryFile.of(image.setL2(0, (1n << 63n) | BigInt(place)).bytes, { path: "damaged" })
      const disk = openQcow2(damaged, { passphrase: encryption.passphrase })
      expect(backingError(() => disk.pwrite(secret, 0))).toMatchObject({
        code: "corrupt", message: expect.stringContaining("the encryption header is there"),
      })
      expect(damaged.toBytes().subarray(header, header + length)).toEqual(file.toBytes().subarray(header, header + length))
    },
  )

  it("QC-LUKS-04 a write to a cluster that a snapshot shares stores it elsewhere, encrypted for its new place", () => {
    const file = luks()
    const first = openQcow2(file, { passphrase: encryption.passphrase })
    first.pwrite(secret, 0)
    first.close()
    // As if a snapshot had it: the entry is not marked as the disk's own, and the cluster is counted twice.
    const image = new Qcow2Bytes(file.toBytes())
    const host = image.hostOffset(0)
    const shared = MemoryFile.of(image.setL2(0, BigInt(host)).setRefcount(host / CLUSTER, 2n).bytes, { path: "shared" })
    const before = shared.clone()
    const disk = openQcow2(shared, { passphrase: encryption.passphrase })
    disk.pwrite(Uint8Array.of(9), 100)
    const wanted = secret.slice()
    wanted[100] = 9
    expect(read(disk, 0, CLUSTER)).toEqual([...wanted])
    disk.close()
    const cluster = (at: MemoryFile): Uint8Array => {
      const bytes = new Uint8Array(CLUSTER)
      at.clone().read(bytes, host)
      return bytes
    }
    expect([...cluster(shared)]).toEqual([...cluster(before)])
    expect(read(openQcow2(before, { passphrase: encryption.passphrase }), 0, CLUSTER)).toEqual([...secret])
  })

  it("QC-LUKS-05 digests of keys are compared by the platform's `equal` alone", () => {
    let compared = 0
    const cryptography = { ...nodeCryptography, equal: (a: Uint8Array, b: Uint8Array) => (compared++, nodeCryptography.equal(a, b)) }
    openQcow2(luks(), { passphrase: encryption.passphrase, cryptography }).close()
    expect(compared).toBe(1)
  })
})
