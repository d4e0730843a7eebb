/** The images that the fuzzing damages: the golden ones, encrypted ones among them, and what opens each. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { BackingError } from "../../src/backing/backing.ts"
import { nodeCryptography } from "../../src/backing/host/node-cryptography.ts"
import type { Cryptography } from "../../src/backing/luks/cryptography.ts"
import { unlockFile } from "../../src/backing/luks/raw-luks.ts"
import { unlockImage } from "../../src/backing/qcow2/encryption.ts"
import { readHeader } from "../../src/backing/qcow2/format/parse-header.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { goldenBytes, goldenDirectory, goldenImages } from "../support/golden.ts"
import { goldenBacking, goldenData } from "../support/images.ts"
import type { MemoryFile } from "../support/memory-file.ts"

export interface CorpusImage {
  readonly name: string
  readonly bytes: Uint8Array
  readonly isEncrypted: boolean
}

function encrypted(name: string): CorpusImage {
  return { name, bytes: new Uint8Array(gunzipSync(readFileSync(join(goldenDirectory, "encrypted", `${name}.gz`)))), isEncrypted: true }
}

export const rawLuks: CorpusImage = encrypted("luks.raw")

export const hostileCorpus: readonly CorpusImage[] = [
  ...goldenImages.map(({ file }) => ({ name: file, bytes: goldenBytes(file), isEncrypted: false })),
  ...["luks-xts.qcow2", "luks-cbc.qcow2", "aes.qcow2"].map(encrypted),
]

/** What one opening may cost: 2^27 iterations of key derivation for each digest in a key, which is what we refuse to go beyond. */
const MOST_ITERATIONS = 2 ** 27
/** More than this takes the fuzzing too long; it is refused as a wrong passphrase would be. */
const PATIENCE = 1 << 14

/** Counts what key derivation would cost, and fails when that goes beyond all limits. */
function countingCryptography(): Cryptography {
  let asked = 0
  return {
    ...nodeCryptography,
    deriveKey(derivation) {
      asked += derivation.iterations * Math.ceil(derivation.length / nodeCryptography.digest(derivation.hash, new Uint8Array(0)).length)
      if (asked > MOST_ITERATIONS) throw new Error(`an opening asks for ${asked} iterations of key derivation`)
      if (derivation.iterations > PATIENCE) throw new BackingError("permission", "the fuzzing does not wait that long")
      return nodeCryptography.deriveKey(derivation)
    },
  }
}

/** @throws BackingError as `unlockFile` */
export function openRawLuks(file: MemoryFile): RawBacking {
  return new RawBacking(unlockFile(file, { passphrase: "golden", cryptography: countingCryptography() }))
}

/** How the image in `file` is opened. @throws BackingError where it is encrypted and cannot be unlocked */
export function openingOf({ name, isEncrypted }: CorpusImage, file: MemoryFile): OpeningOptions {
  const options = { openBacking: goldenBacking(name), openDataFile: goldenData(name) }
  if (!isEncrypted) return options
  const header = readHeader(file)
  if (header.cryptMethod === 0) return options
  return { ...options, cipher: unlockImage(file, header, { passphrase: "golden", cryptography: countingCryptography() }) }
}
