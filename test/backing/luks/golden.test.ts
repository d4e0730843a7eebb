/** Encrypted images that QEMU made, read by us and written over, without a tool of QEMU's at hand. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { checkImage } from "../../../src/backing/check-file.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { unlockFile } from "../../../src/backing/luks/raw-luks.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { goldenDirectory, sha256 } from "../../support/golden.ts"
import { modelOf } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng } from "../../support/rng.ts"

interface EncryptedGolden {
  readonly file: string
  readonly format: "qcow2" | "luks"
  readonly about: string
  readonly size: number
  readonly sha256: string
}

const directory = join(goldenDirectory, "encrypted")
const goldens: readonly EncryptedGolden[] = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"))

function bytesOf({ file }: EncryptedGolden): Uint8Array {
  return new Uint8Array(gunzipSync(readFileSync(join(directory, `${file}.gz`))))
}

function open(file: MemoryFile, { format }: EncryptedGolden, passphrase = "golden"): VirtioBacking {
  if (format === "qcow2") return openQcow2(file, { passphrase })
  return new RawBacking(unlockFile(file, { passphrase, cryptography: nodeCryptography }))
}

describe("encrypted golden images", () => {
  for (const golden of goldens) {
    it(`QC-AES-01 QC-LUKS-02 QC-LUKS-04 reads ${golden.file} (${golden.about}) as QEMU does`, () => {
      const file = MemoryFile.of(bytesOf(golden), { path: golden.file, readOnly: true })
      const disk = open(file, golden)
      const content = new Uint8Array(disk.size)
      disk.pread(content, 0)
      expect({ size: disk.size, sha256: sha256(content) }).toEqual({ size: golden.size, sha256: golden.sha256 })
      expect(file.changes, "a read-only opening writes nothing").toBe(0)
    })

    it(`QC-LUKS-08 QC-AES-03 random writes and zeroes on ${golden.file} read back as a flat model says, also after reopening`, () => {
      const seed = 77
      const rng = new Rng(seed)
      let file = MemoryFile.of(bytesOf(golden), { path: golden.file })
      let disk = open(file, golden)
      const model: FlatModel = modelOf(disk)
      for (let round = 0; round < 120; round++) {
        const offset = rng.below(disk.size - 1)
        const length = 1 + rng.below(Math.min(9000, disk.size - offset))
        if (rng.below(5) === 0) {
          disk.writeZeroes?.(offset, length, rng.below(2) === 0)
          model.write(new Uint8Array(length), offset)
        } else {
          const bytes = rng.bytes(length)
          disk.pwrite(bytes, offset)
          model.write(bytes, offset)
        }
        if (round % 40 !== 39) continue
        disk.close()
        file = file.clone()
        disk = open(file, golden)
        expect(model.firstDifferenceOf(disk), `seed ${seed}, round ${round}`).toBe(-1)
      }
      disk.close()
      if (golden.format === "qcow2") expect(checkImage(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    })
  }

  it("QC-LUKS-05 key slot 7 opens luks-xts.qcow2 as well", () => {
    const golden = goldens.find(({ file }) => file === "luks-xts.qcow2")
    if (golden === undefined) throw new Error("the image is missing")
    expect(open(MemoryFile.of(bytesOf(golden)), golden, "seventh").size).toBe(golden.size)
    expect(() => open(MemoryFile.of(bytesOf(golden)), golden, "eighth")).toThrow(/opens none of the active key slots \(0, 7\)/)
  })
})
