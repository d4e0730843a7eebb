/** Encrypted images in a page: with Web Crypto, which answers later, with a broken one, and without; over files at once and later. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { checkImage } from "../../../src/backing/check-file.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { createDisk } from "../../../src/backing/open-disk-in-page.ts"
import { type DiskSource, openDiskWith, type OpenedDisk } from "../../../src/backing/open-disk.ts"
import type { LuksOptions } from "../../../src/backing/luks/new-volume.ts"
import { PageCryptography, type WebCrypto } from "../../../src/backing/luks/page-cryptography.ts"
import { unlockFile } from "../../../src/backing/luks/raw-luks.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { goldenDirectory, sha256 } from "../../support/golden.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng } from "../../support/rng.ts"
import { LateFile } from "../paging/late-file.ts"

interface EncryptedGolden {
  readonly file: string
  readonly format: "qcow2" | "luks"
  readonly size: number
  readonly sha256: string
}

const directory = join(goldenDirectory, "encrypted")
const goldens: readonly EncryptedGolden[] = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"))
/** Short keys and few iterations: what is tested does not depend on them. */
const QUICK = { passphrase: "golden", cipher: "aes-128", iterTime: 1 } as const
/** Node's, in a hurry. */
const FEW = { ...nodeCryptography, countIterations: () => 1 }
const web = globalThis.crypto as unknown as WebCrypto
/** Of a page that came over plain HTTP. */
const WITHOUT_SUBTLE: WebCrypto = { getRandomValues: (array) => web.getRandomValues(array) }

function goldenFile({ file }: EncryptedGolden): MemoryFile {
  return MemoryFile.of(new Uint8Array(gunzipSync(readFileSync(join(directory, `${file}.gz`)))), { path: file })
}

/** Web Crypto that counts its derivations, or fails each. */
function counting({ isBroken = false } = {}): WebCrypto & { readonly iterations: number[] } {
  const iterations: number[] = []
  const subtle: WebCrypto["subtle"] = {
    importKey: (...words) => web.subtle?.importKey(...words) ?? Promise.reject(new Error("there is none")),
    deriveBits: (algorithm, key, bits) => {
      iterations.push(Reflect.get(algorithm, "iterations"))
      return isBroken || web.subtle === undefined ? Promise.reject(new DOMException("no")) : web.subtle.deriveBits(algorithm, key, bits)
    },
  }
  return { iterations, subtle, getRandomValues: (array) => web.getRandomValues(array) }
}

function openInPage(source: DiskSource, options: { format?: "qcow2" | "luks"; passphrase?: string; web?: WebCrypto }): Promise<OpenedDisk> {
  const { web: platform = web, passphrase = "golden", ...rest } = options
  return openDiskWith({ cryptography: new PageCryptography({ web: platform }) }, source, { passphrase, ...rest })
}

function openInNode(file: MemoryFile, format: "qcow2" | "luks"): VirtioBacking {
  if (format === "qcow2") return openQcow2(file, { passphrase: "golden" })
  return new RawBacking(unlockFile(file, { passphrase: "golden", cryptography: nodeCryptography }))
}

async function contentOf(disk: VirtioBacking): Promise<Uint8Array> {
  const content = new Uint8Array(disk.size)
  await disk.pread(content, 0)
  return content
}

describe("encrypted images in a page", () => {
  for (const golden of goldens) {
    it(`QC-AES-01 QC-LUKS-02 QC-LUKS-04 ${golden.file} of QEMU reads as in QEMU, at once and later`, async () => {
      for (const source of [goldenFile(golden), new LateFile(goldenFile(golden), new Rng(3))]) {
        const disk = await openInPage(source, { format: golden.format })
        expect({ size: disk.size, sha256: sha256(await contentOf(disk)) }).toEqual({ size: golden.size, sha256: golden.sha256 })
        await disk.close()
      }
    })

    it(`QC-AES-01 QC-LUKS-08 Node reads what a page writes to ${golden.file}`, async () => {
      for (const isLate of [false, true]) {
        const rng = new Rng(21)
        const file = goldenFile(golden)
        const disk = await openInPage(isLate ? new LateFile(file, new Rng(4)) : file, { format: golden.format })
        const model = await contentOf(disk)
        for (let round = 0; round < 40; round++) {
          const offset = rng.below(disk.size - 1)
          const bytes = rng.bytes(1 + rng.below(Math.min(9000, disk.size - offset)))
          await disk.pwrite(bytes, offset)
          model.set(bytes, offset)
        }
        await disk.flush?.()
        await disk.close()
        const again = openInNode(file.clone(), golden.format)
        expect(Buffer.from(await contentOf(again)).equals(model), `late: ${isLate}`).toBe(true)
        if (golden.format === "qcow2") expect(checkImage(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
      }
    })
  }

  it("QC-LUKS-05 a wrong passphrase and a missing one are refused, and the file is not written", async () => {
    const golden = goldens.find(({ file }) => file === "luks-xts.qcow2")
    if (golden === undefined) throw new Error("the image is missing")
    const file = goldenFile(golden)
    const message = expect.stringContaining("opens none of the active key slots (0, 7)")
    await expect(openInPage(file, { passphrase: "eighth" })).rejects.toMatchObject({ code: "permission", message })
    await expect(openDiskWith({ cryptography: new PageCryptography() }, file)).rejects.toMatchObject({ code: "invalid-argument" })
    expect(file.changes).toBe(0)
    expect((await openInPage(file, { passphrase: "seventh" })).size).toBe(golden.size)
  })

  it("QC-LUKS-05 each key is derived once, however often the opening starts over", async () => {
    const file = new MemoryFile({ path: "luks" })
    createQcow2(file, { size: 1 << 20, encryption: QUICK }, FEW)
    const platform = counting()
    await openInPage(new LateFile(file, new Rng(5)), { web: platform })
    // The key of the slot, and the digest of what is in it.
    expect(platform.iterations).toHaveLength(2)
  })

  it("QC-LUKS-05 key material is merged once for each slot, however often the opening starts over", async () => {
    const file = new MemoryFile({ path: "luks" })
    createQcow2(file, { size: 1 << 20, encryption: QUICK }, FEW)
    let digests = 0
    const cryptography = new PageCryptography()
    const digest = cryptography.digest.bind(cryptography)
    cryptography.digest = (hash, data) => {
      digests++
      return digest(hash, data)
    }
    await openDiskWith({ cryptography }, file, { passphrase: "golden" })
    // 4000 stripes of a key of 32 bytes: one digest between each two.
    expect(digests).toBe(3999)
  })

  it("QC-LUKS-04 a chain of encrypted images opens with one passphrase for all, or with a promise of one for each", async () => {
    const encrypted = (passphrase: string): LuksOptions => ({ passphrase, cipher: "aes-128", iterTime: 1 })
    for (const [below, above] of [["golden", "golden"], ["below", "above"]] as const) {
      const base = new MemoryFile({ path: "base" })
      createQcow2(base, { size: 1 << 20, encryption: encrypted(below) }, FEW)
      const lower = openQcow2(base, { passphrase: below })
      lower.pwrite(new Uint8Array(100_000).fill(5), 0)
      lower.close()
      const top = new MemoryFile({ path: "top" })
      const backing = { backing: "base", backingFormat: "qcow2" } as const
      createQcow2(top, { size: 1 << 20, ...backing, encryption: encrypted(above) }, FEW)
      const disk = await openDiskWith({ cryptography: new PageCryptography() }, new LateFile(top, new Rng(8)), {
        passphrase: ({ path }) => Promise.resolve(path === "base" ? below : above),
        backing: () => new LateFile(base.clone(), new Rng(9), { readOnly: true }),
      })
      await disk.pwrite(new Uint8Array(1000).fill(6), 50_000)
      const content = await contentOf(disk)
      expect(content.reduce((sum, byte) => sum + byte, 0)).toBe(5 * 99_000 + 6 * 1000)
      await disk.close()
    }
  })

  it("QC-LUKS-05 an image of every hash opens: with Web Crypto, without it, and where it refuses the hash", async () => {
    for (const hash of ["sha1", "sha224", "sha256", "sha384", "sha512"] as const) {
      const file = new MemoryFile({ path: hash })
      createQcow2(file, { size: 1 << 20, encryption: { ...QUICK, hash } }, FEW)
      for (const platform of hash === "sha256" ? [web, WITHOUT_SUBTLE, counting({ isBroken: true })] : [web, WITHOUT_SUBTLE]) {
        expect((await openInPage(file, { web: platform })).size, hash).toBe(1 << 20)
      }
    }
  })

  it("QC-LUKS-06 too many iterations are refused before the first one", async () => {
    const file = new MemoryFile({ path: "luks" })
    createQcow2(file, { size: 1 << 20, encryption: QUICK }, FEW)
    const platform = counting()
    const bytes = file.toBytes()
    const start = Buffer.from(bytes).indexOf(Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe))
    new DataView(bytes.buffer).setUint32(start + 208 + 4, 2 ** 25 + 1)
    await expect(openInPage(MemoryFile.of(bytes), { web: platform })).rejects.toMatchObject({ code: "unsupported" })
    expect(platform.iterations).toEqual([])
  })

  it("QC-LUKS-06 a signal ends a derivation by JavaScript, and one by a Web Crypto that does not answer", async () => {
    const file = new MemoryFile({ path: "luks" })
    createQcow2(file, { size: 1 << 20, encryption: { ...QUICK, hash: "sha512" } }, FEW)
    const bytes = file.toBytes()
    const start = Buffer.from(bytes).indexOf(Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe))
    new DataView(bytes.buffer).setUint32(start + 208 + 4, 2 ** 25)
    const silent: WebCrypto = {
      ...WITHOUT_SUBTLE, subtle: { importKey: () => Promise.resolve(undefined), deriveBits: () => new Promise(() => undefined) },
    }
    for (const platform of [WITHOUT_SUBTLE, silent]) {
      const stopper = new AbortController()
      const cryptography = new PageCryptography({ web: platform, signal: stopper.signal })
      const opening = openDiskWith({ cryptography }, MemoryFile.of(bytes), { passphrase: "golden", signal: stopper.signal })
      for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
      stopper.abort(new Error("enough"))
      await expect(opening).rejects.toThrow("enough")
    }
  })

  it.each(["aes-256", "cast5-128", "serpent-128"] as const)("QC-LUKS-07 an image that a page makes by %s opens in Node", async (cipher) => {
    for (const platform of [web, WITHOUT_SUBTLE]) {
      const file = new MemoryFile({ path: "made" })
      const encryption = { passphrase: "golden", cipher, iterTime: 1 }
      expect(await createDisk(file, { size: 1 << 20, encryption }, new PageCryptography({ web: platform }))).toBe(true)
      const disk = openQcow2(file, { passphrase: "golden" })
      disk.pwrite(new Uint8Array(5000).fill(7), 777)
      disk.close()
      const again = await openInPage(file.clone(), { web: platform })
      const content = await contentOf(again)
      expect(content.reduce((sum, byte) => sum + byte, 0)).toBe(7 * 5000)
      expect(checkImage(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    }
  })
})

describe("the page's cryptography", () => {
  it("draws the same random bytes when a call is repeated, and others for the next image", () => {
    const cryptography = new PageCryptography()
    const first = cryptography.random(70_000)
    const second = cryptography.random(16)
    expect(() => cryptography.countIterations({ hash: "sha256", length: 20, milliseconds: 1 })).toThrow()
    expect(Buffer.from(cryptography.random(70_000)).equals(first)).toBe(true)
    expect(Buffer.from(cryptography.random(16)).equals(second)).toBe(true)
    expect(Buffer.from(cryptography.random(16)).equals(second)).toBe(false)
    expect(Buffer.from(new PageCryptography().random(16)).equals(second)).toBe(false)
    // Also behind what Web Crypto gives at once.
    expect(first.subarray(65_536).some((byte) => byte !== 0)).toBe(true)
  })

  it("compares all bytes", () => {
    const cryptography = new PageCryptography()
    expect(cryptography.equal(Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 3))).toBe(true)
    expect(cryptography.equal(Uint8Array.of(1, 2, 3), Uint8Array.of(0, 2, 3))).toBe(false)
    expect(cryptography.equal(Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 0x83))).toBe(false)
  })
})
