/** Saved states that something is wrong with, restored into a v86 machine with our disks: refused by name, or a disk that works. */
import { afterEach, describe, expect, it, vi } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { attachToV86, type V86Disk, type V86DiskOptions } from "../../../src/vmm/v86/attach.ts"
import { mutate } from "../../fuzz/states/mutations.ts"
import { eio, FakeDisk, promiseBacking, settled } from "../../harness/fake-disk.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { FakeV86 } from "./fake-v86.ts"

const SIZE = 1 << 20
const SLOTS = [9, 14] as const
const TAG = "vioblk-pci-1"
const ROUNDS = Number(process.env["ROUNDS"] ?? 60)
const seed = seedFromEnvironment(20_261_126)

interface Machine {
  readonly vm: FakeV86
  readonly disks: readonly V86Disk[]
}

/** A machine with two disks, as v86 starts it. */
function machine(options: V86DiskOptions = {}, over: () => VirtioBacking = () => new MemoryBacking({ size: SIZE })): Machine {
  const vm = new FakeV86({ acpi: true })
  const disks = SLOTS.map((slot) => attachToV86(vm, over(), { slot, ...options }))
  vm.start()
  for (const [index, slot] of SLOTS.entries()) vm.assign(slot, 0xc000 + 0x400 * index)
  return { vm, disks }
}

async function drivers(vm: FakeV86): Promise<BlockDriver[]> {
  return await Promise.all(findBlockDevices(vm).map((found) => BlockDriver.open(found)))
}

const sector = (text: string): Uint8Array => new TextEncoder().encode(text.padEnd(512, "."))
const bufferOf = (state: unknown): ArrayBuffer => new Uint8Array(Buffer.from(JSON.stringify(state))).buffer
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1))

/** Our entry in a state of a machine: the tag, the ids that assert their pin, then pairs. */
function entryOf(state: { readonly pci: readonly unknown[] }): unknown[] {
  const entry = state.pci.find((part): part is unknown[] => Array.isArray(part) && part[0] === TAG)
  if (entry === undefined) throw new Error("the state has no entry of ours")
  return entry
}

/** The state of a machine whose guest uses both disks, with `change` made to our entry. */
async function stateOf({ vm }: Machine, change: (entry: unknown[]) => void): Promise<ArrayBuffer> {
  const state = JSON.parse(Buffer.from(await vm.save_state()).toString()) as { pci: unknown[] }
  change(entryOf(state))
  return bufferOf(state)
}

async function used(): Promise<Machine> {
  const one = machine()
  for (const driver of await drivers(one.vm)) await driver.write(1, sector("before"))
  return one
}

const AT = { asserted: 1, firstText: 3, secondText: 5 } as const

afterEach(() => {
  vi.useRealTimers()
})

describe("a state that is refused", () => {
  it.each<[string, (text: string) => unknown, RegExp]>([
    ["is cut off", (text) => text.slice(0, -10), /^saved state: the disk in PCI slot 14: not JSON/],
    ["is empty", () => "", /^saved state: the disk in PCI slot 14: not JSON/],
    ["is no text", (text) => JSON.parse(text), /^saved state: the disk in PCI slot 14: an object is not a text$/],
    ["is of another version", (text) => text.replace('"version":2', '"version":99'), /^saved state: version 99/],
  ])("gives the reason when the second disk's %s, and leaves both disks as after a reset", async (_, change, message) => {
    const state = await stateOf(await used(), (entry) => (entry[AT.secondText] = change(String(entry[AT.secondText]))))
    const { vm, disks } = machine()
    await drivers(vm)
    const ram = vm.ram.slice()
    await expect(vm.restore_state(state)).rejects.toThrow(message)
    await turn()
    // What the first disk was restored with names places in a memory that is not there.
    expect(disks.map(({ device }) => device.virtio.status)).toEqual([0, 0])
    expect(Buffer.compare(vm.ram, ram)).toBe(0)
    expect(SLOTS.map((slot) => vm.config(slot, 4, 2))).toEqual([0, 0])
  })

  it("lowers the interrupt of a disk that raised it", async () => {
    const { vm, disks } = machine()
    await drivers(vm)
    const line = vm.pci.line(SLOTS[0] << 3)
    vm.interrupts.subscribe(() => undefined)
    await disks[0]?.device.resize(2 * SIZE)
    expect(vm.pci.lines.get(line)).toBe(true)
    const state = await stateOf(await used(), (entry) => (entry[AT.secondText] = "{"))
    await expect(vm.restore_state(state)).rejects.toThrow("saved state: ")
    expect(vm.pci.lines.get(line)).toBe(false)
  })

  it("may be one of another image, if restoreImage is same", async () => {
    const versioned = (name: string) => (): VirtioBacking =>
      Object.assign(new MemoryBacking({ size: SIZE }), { version: () => ({ image: name, content: "1" }) })
    const { vm } = machine({}, versioned("one"))
    const state = await vm.save_state()
    const other = machine({ restoreImage: "same" }, versioned("two"))
    await expect(other.vm.restore_state(state)).rejects.toThrow(/^saved state: /)
    expect(other.disks.map(({ device }) => device.virtio.status)).toEqual([0, 0])
  })
})

describe("a state that is accepted", () => {
  it.each<[string, unknown]>([
    ["missing devices", [40, 1000, -8, 0.5, 2 ** 40, Number.NaN, "72"]],
    ["no list", { length: 3 }],
    ["disks of ours that raise none", [SLOTS[0] << 3, SLOTS[1] << 3]],
  ])("may claim interrupts of %s: a disk's own still falls", async (_, asserted) => {
    const state = await stateOf(await used(), (entry) => (entry[AT.asserted] = asserted))
    const { vm } = machine()
    await vm.restore_state(state)
    await turn()
    vm.reboot()
    for (const [index, slot] of SLOTS.entries()) vm.assign(slot, 0xc000 + 0x400 * index)
    for (const driver of await drivers(vm)) {
      await driver.write(2, sector("after"))
      expect(await driver.read(2, 1)).toEqual(sector("after"))
    }
    expect(SLOTS.map((slot) => vm.pci.lines.get(vm.pci.line(slot << 3)) ?? false)).toEqual([false, false])
  })

  it("does not resume a disk that has stopped at an error meanwhile", async () => {
    const state = await stateOf(machine(), () => undefined)
    const fake = new FakeDisk({ content: new Uint8Array(SIZE) })
    const { vm, disks: [disk] } = machine({ writeErrors: "stop" }, () => fake)
    vi.useFakeTimers({ toFake: ["setTimeout"] })
    await vm.restore_state(state)
    const [driver] = await drivers(vm)
    let failures = 0
    fake.failing = () => (failures++, eio())
    driver?.write(0, sector("fails")).catch(() => undefined)
    await settled()
    expect(disk?.device.stoppedBy).toBeDefined()
    vi.runOnlyPendingTimers()
    await settled()
    expect([disk?.device.stoppedBy === undefined, failures]).toEqual([false, 1])
  })

  it("may be saved in the middle of late requests, of which none is lost", async () => {
    const content = new MemoryBacking({ size: SIZE })
    const late = machine({}, () => promiseBacking(content))
    const [driver] = await drivers(late.vm)
    const writes = [1, 2, 3].map((at) => driver?.write(at, sector(`late ${at}`)))
    const saving = late.vm.save_state()
    const more = driver?.write(4, sector("later"))
    const state = await saving
    expect([1, 2, 3].every((at) => Buffer.from(readSector(content, at)).toString().startsWith("late"))).toBe(true)
    await Promise.all([...writes, more])
    const { vm, disks } = machine()
    await vm.restore_state(state)
    await turn()
    expect(disks.map(({ device }) => device.virtio.status)).toEqual([15, 15])
  })
})

function readSector(disk: MemoryBacking, at: number): Uint8Array {
  const found = new Uint8Array(512)
  disk.pread(found, 512 * at)
  return found
}

/** One of the texts of our entry, or the entry itself, with some changes. */
function damaged(entry: unknown[], rng: Rng): void {
  if (rng.chance(0.2)) return void mutate(entry, 1, rng)
  const at = rng.pick([AT.firstText, AT.secondText])
  const text = String(entry[at])
  if (rng.chance(0.2)) entry[at] = text.slice(0, rng.below(text.length))
  else {
    const state = JSON.parse(text) as Record<string, unknown>
    mutate(state, rng.between(1, 3), rng)
    entry[at] = textOf(state) ?? text
  }
}

/** Undefined where JSON has no such thing. */
function textOf(state: unknown): string | undefined {
  try {
    return JSON.stringify(state)
  } catch {
    return undefined
  }
}

it(`seed ${seed}: any damaged state is refused by name or gives working disks, and nothing is thrown later`, async () => {
  const rng = new Rng(seed)
  const original = JSON.parse(Buffer.from(await (await used()).vm.save_state()).toString()) as { pci: unknown[]; ram: string }
  // Its RAM as it was takes most of the time. In that of the round before are rings as well.
  original.ram = ""
  const outcomes = { taken: 0, refused: 0 }
  const { vm, disks } = machine()
  for (let round = 0; round < ROUNDS; round++) {
    const state = structuredClone(original)
    damaged(entryOf(state), rng)
    const text = textOf(state)
    if (text === undefined) continue
    const error: unknown = await vm.restore_state(new Uint8Array(Buffer.from(text)).buffer).then(
      () => undefined, (reason: unknown) => reason,
    )
    outcomes[error === undefined ? "taken" : "refused"]++
    if (error !== undefined) expect(String(error)).toMatch(/^Error: saved state: [^\n]{1,300}$/)
    if (error !== undefined) expect(disks.map(({ device }) => device.virtio.status)).toEqual([0, 0])
    await turn()
    vm.reboot()
    for (const [index, slot] of SLOTS.entries()) vm.assign(slot, 0xc000 + 0x400 * index)
    for (const driver of await drivers(vm)) {
      await driver.write(3, sector(`round ${round}`))
      expect(await driver.read(3, 1)).toEqual(sector(`round ${round}`))
    }
  }
  expect(outcomes.taken).toBeGreaterThan(ROUNDS / 20)
  expect(outcomes.refused).toBeGreaterThan(ROUNDS / 20)
}, 60_000)
