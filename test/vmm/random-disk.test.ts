/**
 * Random operations through the whole way of a request, against a flat model: a driver, rings, the PCI function, the device, and a raw or a
 * qcow2 image that is closed and opened again on another machine. The same seed for all images.
 */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../src/vmm/driver/block/options.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { FlatModel } from "../support/flat-model.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { describeOperation, type Operation, randomOperation } from "../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const SEED = seedFromEnvironment(31)
const OPERATIONS = Number(process.env["OPERATIONS"] ?? 1000)
const SIZE = 1 << 20
const SECTOR = 512
/** Operations that are in flight together: on ranges that do not touch, for the order of those that do is nobody's promise. */
const MOST_TOGETHER = 24

interface Shape {
  readonly name: string
  /** Makes an empty image. */
  make(file: MemoryFile): void
  open(file: MemoryFile): VirtioBacking
  readonly isQcow2: boolean
  readonly driver: BlockDriverOptions
  readonly queues?: number
}

const qcow2 = (clusterSize: number, refcountBits: number) => ({
  make: (file: MemoryFile) => createQcow2(file, { size: SIZE, clusterSize, refcountBits }),
  open: (file: MemoryFile) => openInMemory(file, { cacheSize: 8 * clusterSize }),
  isQcow2: true,
})
const raw = { make: (file: MemoryFile) => file.truncate(SIZE), open: (file: MemoryFile) => new RawBacking(file), isQcow2: false }

const SHAPES: readonly Shape[] = [
  { name: "raw, modern, MSI-X", ...raw, driver: {} },
  {
    name: "raw, legacy, write-through, small queue",
    ...raw,
    driver: { transport: "legacy", features: { refuse: ["FLUSH", "CONFIG_WCE"] } },
  },
  { name: "qcow2 with clusters of 64 KiB, modern, 4 queues", ...qcow2(65536, 16), driver: { queues: 4 }, queues: 4 },
  {
    name: "qcow2 with clusters of 512 bytes, 1-bit refcounts, no indirect descriptors",
    ...qcow2(512, 1),
    driver: { features: { refuse: ["INDIRECT_DESC"] } },
  },
  {
    name: "qcow2 with clusters of 4 KiB, 64-bit refcounts, legacy, INTx, odd framing",
    ...qcow2(4096, 64),
    driver: { transport: "legacy", interrupts: "intx", framing: { readable: [7, 9, 100], writable: [3, 600] } },
  },
]

/** Operations whose ranges do not touch each other; a flush or a reopen stands alone. */
function drawTogether(rng: Rng): Operation[] {
  const drawn: Operation[] = []
  const count = 1 + rng.below(MOST_TOGETHER)
  while (drawn.length < count) {
    const operation = randomOperation(rng, { size: SIZE, longest: 40_960, unit: SECTOR })
    if (operation.kind === "flush" || operation.kind === "reopen") return drawn.length === 0 ? [operation] : drawn
    if (!drawn.some((other) => touches(other, operation))) drawn.push(operation)
  }
  return drawn
}

function rangeOf(operation: Operation): readonly [number, number] {
  if (operation.kind === "flush" || operation.kind === "reopen") return [0, 0]
  return [operation.offset, operation.offset + (operation.kind === "write" ? operation.data.length : operation.length)]
}

function touches(one: Operation, other: Operation): boolean {
  const [[a, b], [c, d]] = [rangeOf(one), rangeOf(other)]
  return a < d && c < b
}

async function perform(driver: BlockDriver, model: FlatModel, operation: Operation, queue: number): Promise<void> {
  const at = rangeOf(operation)[0] / SECTOR
  switch (operation.kind) {
    case "write":
      await driver.write(at, operation.data, { queue })
      return model.write(operation.data, operation.offset)
    case "read":
      return expectModel(model, await driver.read(at, operation.length / SECTOR, { queue }), operation.offset)
    case "writeZeroes":
      await driver.writeZeroes([{ sector: at, sectors: operation.length / SECTOR }], { unmap: operation.mayUnmap, queue })
      return model.zero(operation.offset, operation.length)
    case "discard":
      if (driver.identify().discard === undefined) return
      await driver.discard([{ sector: at, sectors: operation.length / SECTOR }], { queue })
      return settleDiscard(model, await driver.read(at, operation.length / SECTOR, { queue }), operation.offset)
    case "flush":
      return driver.flush({ queue })
    case "reopen":
      return
  }
}

/** After a discard a sector holds what it held, or zeroes; from then on it is what the guest has seen. */
function settleDiscard(model: FlatModel, data: Uint8Array, offset: number): void {
  for (let at = 0; at < data.length; at += SECTOR) {
    const sector = data.subarray(at, at + SECTOR)
    if (sector.every((byte) => byte === 0)) model.zero(offset + at, SECTOR)
    else expectModel(model, sector, offset + at)
  }
}

function expectModel(model: FlatModel, data: Uint8Array, offset: number): void {
  const difference = model.firstDifference(data, offset)
  if (difference >= 0) {
    throw new Error(`byte ${difference} of the disk is ${data[difference - offset]}, not ${model.read(difference, 1)[0]}`)
  }
}

describe(`random operations through the device, seed ${SEED}`, () => {
  it.each(SHAPES)("$name: the guest reads what it wrote, also on the next machine", async (shape) => {
    const rng = new Rng(SEED)
    const model = new FlatModel(SIZE)
    let file = new MemoryFile()
    shape.make(file)
    let backing = shape.open(file)
    const start = async () => {
      const vm = new Machine({ ramSize: 16 << 20 })
      vm.attachDisk(backing, { queues: shape.queues ?? 1 })
      const [pci] = findBlockDevices(vm)
      if (pci === undefined) throw new Error("no disk")
      return BlockDriver.open(pci, shape.driver)
    }
    let driver = await start()
    const reopen = async () => {
      await driver.close()
      await backing.close()
      file = file.clone()
      if (shape.isQcow2) expect(checkQcow2(file)).toMatchObject({ corruptions: 0, leaks: 0 })
      backing = shape.open(file)
      driver = await start()
    }
    for (let done = 0; done < OPERATIONS; ) {
      const together = drawTogether(rng)
      done += together.length
      const outcomes = await Promise.allSettled(
        driver.batch(() => together.map((operation, index) => perform(driver, model, operation, index % driver.queueCount))),
      )
      const failed = outcomes.findIndex((outcome) => outcome.status === "rejected")
      const failure = outcomes[failed]
      const operation = together[failed]
      if (failure?.status === "rejected" && operation !== undefined) {
        throw new Error(`operation ${done}, ${describeOperation(operation)}: ${failure.reason}`)
      }
      if (together[0]?.kind === "reopen") await reopen()
    }
    await reopen()
    expectModel(model, await driver.read(0, SIZE / SECTOR), 0)
  })
})
