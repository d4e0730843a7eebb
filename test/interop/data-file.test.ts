/** Images with an external data file, by QEMU and by us in turn. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { FlatModel } from "../support/flat-model.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../support/qemu.ts"
import { applyOperation, randomOperation } from "../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(65)
const SIZE = 1 << 20

const shapes = [
  { clusterSize: 4096, raw: false, extendedL2: false },
  { clusterSize: 65536, raw: true, extendedL2: false },
  { clusterSize: 16384, raw: false, extendedL2: true },
  { clusterSize: 16384, raw: true, extendedL2: true },
] as const

interface Files {
  readonly path: string
  readonly data: string
}

function changeByUs({ path, data }: Files, model: FlatModel, rng: Rng, clusterSize: number): void {
  const disk = openImage(path, { dataFile: data })
  for (let count = 0; count < 40; count++) {
    applyOperation(disk, model, randomOperation(rng, { size: SIZE, longest: 60_000 }), { zeroesClustersOf: clusterSize })
  }
  disk.close()
}

function changeByQemu(path: string, model: FlatModel, rng: Rng): void {
  const commands: string[] = []
  for (let count = 0; count < 12; count++) {
    const offset = rng.below(SIZE / 512) * 512
    const length = Math.min(SIZE - offset, 512 * rng.between(1, 100))
    const pattern = rng.between(1, 255)
    if (rng.chance(0.7)) {
      commands.push(`write -P ${pattern} ${offset} ${length}`)
      model.write(new Uint8Array(length).fill(pattern), offset)
    } else {
      commands.push(`write -z ${rng.chance(0.5) ? "-u " : ""}${offset} ${length}`)
      model.zero(offset, length)
    }
  }
  qemuIo(path, commands, "-f", "qcow2", "-d", "unmap", "-t", "unsafe")
}

describe(`external data files, seed ${seed}`, () => {
  for (const { clusterSize, raw, extendedL2 } of shapes) {
    for (const maker of ["QEMU", "us"]) {
      const kind = `${raw ? "raw, " : ""}${extendedL2 ? "extended L2, " : ""}clusters of ${clusterSize}, made by ${maker}`
      itWithQemu(`QC-DF-01 QC-DF-02 QC-DF-03 QC-DF-06 QC-DF-07 ${kind}`, () => {
        const directory = temporaryDirectory()
        const [path, data] = [join(directory, "disk.qcow2"), join(directory, "disk.data")]
        const onOff = (flag: boolean): string => (flag ? "on" : "off")
        const options = `cluster_size=${clusterSize},data_file=${data},data_file_raw=${onOff(raw)},extended_l2=${onOff(extendedL2)}`
        if (maker === "QEMU") qemuImg("create", "-q", "-f", "qcow2", "-o", options, path, String(SIZE))
        // QEMU takes a relative name for one from the current directory.
        else createImage(path, { size: SIZE, clusterSize, dataFile: data, dataFileRaw: raw, extendedL2 })
        const model = new FlatModel(SIZE)
        const rng = new Rng(seed)
        for (let round = 0; round < 2; round++) {
          changeByUs({ path, data }, model, rng, clusterSize)
          expect(qemuCheck(path), "after our changes").toMatchObject({ exitCode: 0 })
          const seen = join(directory, "seen.raw")
          qemuImg("convert", "-f", "qcow2", "-O", "raw", path, seen)
          expect(model.firstDifference(new Uint8Array(readFileSync(seen)), 0)).toBe(-1)
          if (raw) expect(model.firstDifference(new Uint8Array(readFileSync(data)), 0), "the data file alone").toBe(-1)
          changeByQemu(path, model, rng)
          const disk = openImage(path, { readOnly: true, dataFile: data })
          expect(model.firstDifferenceOf(disk)).toBe(-1)
          disk.close()
        }
      })
    }
  }
})
