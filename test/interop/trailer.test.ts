/** An image of QEMU with a trailer: ours keep it at the end of the file, and QEMU finds the image sound. */
import { appendFileSync, copyFileSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { checkImage, repairImage } from "../../src/backing/check.ts"
import { amendImage } from "../../src/backing/operations/amend-image.ts"
import { rebaseImage } from "../../src/backing/operations/rebase-image.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { trailer, works } from "../backing/qcow2/trailers.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../support/qemu.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const options = ["cluster_size=512", "cluster_size=64k", "compat=0.10,cluster_size=2M"] as const

function sound(path: string, bytes: Uint8Array): void {
  expect(qemuCheck(path)).toMatchObject({ exitCode: 0, corruptions: 0, leaks: 0 })
  expect(checkImage(path)).toMatchObject({ exitCode: 0 })
  expect(Buffer.compare(readFileSync(path).subarray(-bytes.length), bytes)).toBe(0)
}

function ours(path: string, work: (disk: Qcow2Image) => void): void {
  const disk = openImage(path)
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  work(disk)
  disk.close()
}

describe("bytes behind the end of an image of QEMU", () => {
  for (const option of options) {
    for (const isNew of [true, false]) {
      itWithQemu(`QC-CHK-01 stay there (${option}, ${isNew ? "new" : "with data"})`, () => {
        const bytes = trailer(777)
        const made = join(temporaryDirectory(), "made.qcow2")
        qemuImg("create", "-q", "-f", "qcow2", "-o", option, made, "32M")
        if (!isNew) qemuIo(made, ["write -P 17 0 100000", "write -P 18 20M 3M"])
        appendFileSync(made, bytes)
        sound(made, bytes)
        for (const [name, work] of works.filter((_, at) => !option.startsWith("compat") || (at !== 8 && at !== 9))) {
          const path = join(temporaryDirectory(), "checkpoint.qcow2")
          copyFileSync(made, path)
          ours(path, work)
          ours(path, (disk) => disk.pwrite(new Uint8Array(500_000).fill(7), 9_000_000))
          sound(path, bytes)
          expect(qemuIo(path, ["read -P 7 9000000 500000"], "-r"), name).not.toMatch(/fail/i)
          if (!option.startsWith("compat")) {
            amendImage(path, { refcountBits: 32 })
            repairImage(path, "all")
            sound(path, bytes)
          }
        }
      })
    }
  }

  itWithQemu("stay in place when a rebase changes only the header", async () => {
    const folder = temporaryDirectory()
    const path = join(folder, "checkpoint.qcow2")
    for (const name of ["a.raw", "b.raw"]) qemuImg("create", "-q", "-f", "raw", join(folder, name), "32M")
    qemuImg("create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", path)
    const bytes = trailer(321)
    appendFileSync(path, bytes)
    const { size } = statSync(path)
    await rebaseImage(path, { backing: "b.raw", backingFormat: "raw", unsafe: true })
    sound(path, bytes)
    await rebaseImage(path, { backing: "a.raw", backingFormat: "raw" })
    sound(path, bytes)
    expect(statSync(path).size).toBe(size)
  })
})
