/** The ciphers of sectors against node:crypto with an IV for each sector, and against published vectors. */
import { createCipheriv, createHash } from "node:crypto"
import { describe, expect, it } from "vitest"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { type CipherSpec, parseCipherSpec } from "../../../src/backing/luks/cipher-spec.ts"
import { Aes } from "../../../src/backing/luks/ciphers/aes.ts"
import { castBoxes } from "../../../src/backing/luks/ciphers/cast5-boxes.ts"
import { makeBlockCipher } from "../../../src/backing/luks/ciphers/make-block-cipher.ts"
import { makeCipher } from "../../../src/backing/luks/make-cipher.ts"
import { Rng } from "../../support/rng.ts"

function spec(modeText: string, keyBytes: number, name = "aes"): CipherSpec {
  const found = parseCipherSpec(name, modeText, keyBytes)
  if (typeof found === "string") throw new Error(found)
  return found
}

/** The bytes 0, 1, 2 and so on. */
function upTo(length: number): string {
  return Buffer.from(Array.from({ length }, (_, byte) => byte)).toString("hex")
}

function hex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "hex"))
}

/** The IV that dm-crypt's names stand for. */
function iv(generator: string, sector: number, key: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(16)
  bytes.writeBigUInt64LE(generator === "plain" ? BigInt(sector) & 0xffff_ffffn : BigInt(sector))
  if (!generator.startsWith("essiv")) return bytes
  return createCipheriv("aes-256-ecb", createHash("sha256").update(key).digest(), null).setAutoPadding(false).update(bytes)
}

describe("encrypted sectors", () => {
  const cases = ["xts 64 aes-256-xts", "xts 32 aes-128-xts", "cbc 16 aes-128-cbc", "cbc 24 aes-192-cbc", "cbc 32 aes-256-cbc",
    "ctr 32 aes-256-ctr", "ecb 32 aes-256-ecb"]
  for (const text of cases) {
    for (const generator of ["plain64", "plain", "essiv:sha256"]) {
      it(`QC-LUKS-02 ${text} ${generator} encrypts many sectors at once as node:crypto does each`, () => {
        const [mode = "", keyBytes = "", name = ""] = text.split(" ")
        const rng = new Rng(7)
        const key = rng.bytes(Number(keyBytes))
        const cipher = makeCipher(spec(`${mode}-${generator}`, key.length), key, nodeCryptography)
        // The last sector is cut off, as a slot's key material may be; the numbers cross 2^32.
        for (const [length, first] of [[512, 0], [4096, 2 ** 32 - 3], [512 * 5 + 256, 2 ** 40]] as const) {
          const plain = rng.bytes(length)
          const data = plain.slice()
          cipher.encrypt(data, first)
          const wanted = new Uint8Array(length)
          for (let at = 0; at < length; at += 512) {
            const single = createCipheriv(name, key, mode === "ecb" ? null : iv(generator, first + at / 512, key)).setAutoPadding(false)
            wanted.set(single.update(plain.subarray(at, at + 512)), at)
          }
          expect(Buffer.from(data).equals(wanted)).toBe(true)
          cipher.decrypt(data, first)
          expect(Buffer.from(data).equals(plain)).toBe(true)
        }
      })
    }
  }

  it("QC-LUKS-02 XTS-AES-128 gives vector 2 of IEEE 1619, annex B", () => {
    const key = hex("11".repeat(16) + "22".repeat(16))
    const data = hex("44".repeat(32))
    makeCipher(spec("xts-plain64", 32), key, nodeCryptography).encrypt(data, 0x33_3333_3333)
    expect(Buffer.from(data).toString("hex")).toBe("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0")
  })

  it("QC-LUKS-02 XTS-AES-192 takes two keys of 24 bytes; its first block is AES between two XORs with the encrypted number", () => {
    const key = new Rng(3).bytes(48)
    const data = new Uint8Array(16).fill(9)
    makeCipher(spec("xts-plain64", 48), key, nodeCryptography).encrypt(data, 5)
    const aes = (half: Uint8Array, block: Uint8Array): Uint8Array =>
      createCipheriv("aes-192-ecb", half, null).setAutoPadding(false).update(block)
    const tweak = aes(key.subarray(24), iv("plain64", 5, key))
    const wanted = aes(key.subarray(0, 24), tweak.map((byte) => byte ^ 9)).map((byte, at) => byte ^ (tweak[at] ?? 0))
    expect([...data]).toEqual([...wanted])
  })

  for (const [keyBytes, wanted] of [
    [16, "69c4e0d86a7b0430d8cdb78070b4c55a"], [24, "dda97ca4864cdfe06eaf70a0ec0d7191"], [32, "8ea2b7ca516745bfeafc49904b496089"],
  ] as const) {
    it(`QC-LUKS-02 the AES of pages with a key of ${keyBytes} bytes gives its vector of FIPS 197, and agrees with node:crypto`, () => {
      const vector = new Aes(hex(upTo(keyBytes))).encrypt(hex("00112233445566778899aabbccddeeff"))
      expect(Buffer.from(vector).toString("hex")).toBe(wanted)
      const rng = new Rng(6)
      for (let round = 0; round < 50; round++) {
        const key = rng.bytes(keyBytes)
        const [ours, theirs] = [new Aes(key), nodeCryptography.aes(key)]
        // The bytes may lie anywhere, and stay as they were.
        const blocks = rng.bytes(16 * 9 + 1).subarray(1)
        const before = blocks.slice()
        expect(Buffer.from(ours.encrypt(blocks)).equals(theirs.encrypt(blocks))).toBe(true)
        expect(Buffer.from(ours.decrypt(blocks)).equals(theirs.decrypt(blocks))).toBe(true)
        expect(Buffer.from(blocks).equals(before)).toBe(true)
      }
    })
  }

  const VECTORS = [
    // The Serpent of the Linux kernel's own tests, whose bytes come in the order that LUKS has.
    ["serpent", upTo(16), upTo(16), "4c7d8a328072a22c823e4a1f3acda16d"],
    ["serpent", upTo(32), upTo(16), "de269ff833e432b85b2e88d2701ce75c"],
    // Appendix A of the paper on Twofish, and its test vectors.
    ["twofish", "00".repeat(16), "00".repeat(16), "9f589f5cf6122c32b6bfec2f2ae8c35a"],
    ["twofish", "0123456789abcdeffedcba98765432100011223344556677", "00".repeat(16), "cfd1d2e5a9be9cdf501f13b892bd2248"],
    ["twofish", "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff", "00".repeat(16), "37527be0052334b89f0cfccae87cfa20"],
    // RFC 2144, B.1. Two of its blocks, to have 16 bytes.
    ["cast5", "0123456712345678234567893456789a", "0123456789abcdef".repeat(2), "238b4fe5847e44b2".repeat(2)],
  ] as const
  for (const [name, key, plain, wanted] of VECTORS) {
    it(`QC-LUKS-02 ${name} with a key of ${key.length / 2} bytes gives its published vector in each block, and decrypts it`, () => {
      const cipher = makeBlockCipher(name, hex(key), nodeCryptography)
      const blocks = hex("ff".repeat(16) + plain + plain)
      const hidden = cipher.encrypt(blocks)
      expect(Buffer.from(hidden).toString("hex").slice(32)).toBe(wanted + wanted)
      expect(Buffer.from(cipher.decrypt(hidden)).equals(blocks)).toBe(true)
      // The bytes may lie anywhere, and stay as they were.
      const odd = hex("00" + plain).subarray(1)
      expect(Buffer.from(cipher.encrypt(odd)).toString("hex")).toBe(wanted)
      expect(Buffer.from(odd).toString("hex")).toBe(plain)
    })
  }

  it("QC-LUKS-02 the S-boxes of CAST5 are those of RFC 2144: they have the same digest as the tables of two other libraries", () => {
    const bytes = Buffer.from(castBoxes().buffer)
    expect(createHash("sha256").update(bytes).digest("hex")).toBe("2384464beecdc255071a8b150ae71731edc6673b99e28bdeefbd99209365cf91")
  })

  it("QC-LUKS-02 an ESSIV of CAST5 is 8 bytes: the number in little-endian, encrypted by the digest of the key", () => {
    const key = new Rng(4).bytes(16)
    const cast5 = (of: Uint8Array, block: Uint8Array): Uint8Array => makeBlockCipher("cast5", of, nodeCryptography).encrypt(block)
    const data = new Uint8Array(16).fill(9)
    makeCipher(spec("cbc-essiv:md5", 16, "cast5"), key, nodeCryptography).encrypt(data, 0x01_0203_0405)
    const first = cast5(key, cast5(createHash("md5").update(key).digest(), hex("0504030201000000")).map((byte) => byte ^ 9))
    expect([...data]).toEqual([...first, ...cast5(key, first.map((byte) => byte ^ 9))])
  })

  it("QC-LUKS-06 the error of an unsupported combination names the cipher, mode, key size or hash that is wrong", () => {
    const problem = (name: string, mode: string, keyBytes: number): unknown => parseCipherSpec(name, mode, keyBytes)
    expect(problem("camellia", "cbc-plain64", 16)).toMatch(/"camellia" is not supported; only aes, serpent, twofish, cast5 are/)
    expect(problem("cast5", "xts-plain64", 32)).toMatch(/cast5 has blocks of 8 bytes, and mode xts needs 16/)
    expect(problem("cast5", "cbc-plain64", 32)).toMatch(/cast5 in mode cbc cannot have a key of 32 bytes/)
    expect(problem("cast5", "cbc-essiv:sha256", 16)).toMatch(/a digest of sha256 has 32 bytes, and no key of cast5 has that length/)
    expect(problem("serpent", "xts-plain64", 16)).toMatch(/serpent in mode xts cannot have a key of 16 bytes/)
    expect(problem("aes", "xts", 64)).toMatch(/"xts" is not supported/)
    expect(problem("aes", "pcbc-plain64", 32)).toMatch(/"pcbc-plain64" is not supported/)
    expect(problem("aes", "xts-plain64", 16)).toMatch(/cannot have a key of 16 bytes/)
    expect(problem("aes", "cbc-plain64", 0xffff_ffff)).toMatch(/cannot have a key of 4294967295 bytes/)
    expect(problem("aes", "cbc-essiv", 32)).toMatch(/does not name a hash/)
    expect(problem("aes", "cbc-essiv:sha1", 32)).toMatch(/has 20 bytes, and no key of aes has that length/)
    // dm-crypt and QEMU do not look at the hash of a generator that has none.
    const found = { name: "aes", mode: "xts", ivGenerator: "plain64", ivHash: undefined, keyBytes: 64 }
    expect(problem("aes", "xts-plain64:sha1", 64)).toEqual(found)
  })
})
