/** The hashes and the PBKDF2 of pages, against node:crypto. */
import { createHash, pbkdf2Sync } from "node:crypto"
import { describe, expect, it } from "vitest"
import { digest, type HashFunction } from "../../../../src/backing/luks/hashes/hash-function.ts"
import { md5 } from "../../../../src/backing/luks/hashes/md5.ts"
import { deriveKey } from "../../../../src/backing/luks/hashes/pbkdf2.ts"
import { ripemd160 } from "../../../../src/backing/luks/hashes/ripemd160.ts"
import { sha1 } from "../../../../src/backing/luks/hashes/sha1.ts"
import { sha224, sha256 } from "../../../../src/backing/luks/hashes/sha256.ts"
import { sha384, sha512 } from "../../../../src/backing/luks/hashes/sha512.ts"
import { Rng } from "../../../support/rng.ts"

const HASHES: readonly (readonly [string, HashFunction])[] = Object.entries({ md5, sha1, ripemd160, sha224, sha256, sha384, sha512 })

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex")
}

describe.each(HASHES)("%s", (name, hash) => {
  it("agrees with node:crypto at every length around one and two blocks, and leaves the data as it is", () => {
    const rng = new Rng(11)
    for (let length = 0; length <= 2 * hash.blockBytes + 1; length++) {
      const data = rng.bytes(length)
      const before = data.slice()
      expect(hex(digest(hash, data)), `${length} bytes`).toBe(createHash(name).update(data).digest("hex"))
      expect(Buffer.from(data).equals(before)).toBe(true)
    }
  })

  it("derives the same keys as node:crypto, whatever the lengths of passphrase, salt and key, and the iterations", async () => {
    const rng = new Rng(12)
    const cases = [[0, 4, 1, 20], [3, 32, 1000, 64], [200, 150, 257, 33], [128, 32, 2, 129]] as const
    for (const [passphrase, salt, iterations, length] of cases) {
      const given = { hash: name, passphrase: rng.bytes(passphrase), salt: rng.bytes(salt), iterations, length }
      const wanted = pbkdf2Sync(given.passphrase, given.salt, iterations, length, name)
      expect(hex(await deriveKey(hash, given)), `${iterations} iterations`).toBe(wanted.toString("hex"))
    }
  })
})

describe("a long derivation", () => {
  it("gives up the thread between its parts", async () => {
    let turns = 0
    let isDone = false
    const count = (): void => {
      turns++
      if (!isDone) setImmediate(count)
    }
    setImmediate(count)
    const salt = new Uint8Array(32)
    await deriveKey(sha512, { hash: "sha512", passphrase: salt, salt, iterations: 20_000, length: 64 })
    isDone = true
    expect(turns).toBeGreaterThan(2)
  })
})
