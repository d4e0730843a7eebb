/** What a TypeScript project compiles against: every part of the package, so that the compiler reads all of its declarations. */
import * as vioblk from "vioblk"
import {
  BackingError, BlockDriver, findBlockDevices, LinearMemory, Machine, type VirtioBacking, VirtioBlk, VirtioPciFunction,
} from "vioblk"

class Zeroes implements VirtioBacking {
  readonly size = 1 << 20
  readonly readOnly = false
  pread(buffer: Uint8Array): void {
    buffer.fill(0)
  }
  pwrite(): void {
    throw new BackingError("no-space", "full")
  }
  close(): void {}
}

const fn = new VirtioPciFunction(new VirtioBlk(new Zeroes(), { serial: "typed" }), {
  memory: new LinearMemory(new ArrayBuffer(1 << 20)),
  interrupts: { intx(_level: boolean) {}, message(_address: number, _data: number) {} },
})
export const id: number = fn.configRead(0, 2)

export async function capacity(): Promise<number> {
  const vm = new Machine({ ramSize: 1 << 24 })
  vm.attachDisk(new Zeroes())
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("no disk")
  return (await BlockDriver.open(pci)).identify().capacity
}

/** An emulator's own RAM, and a disk that answers later. */
export function embed(ram: SharedArrayBuffer, emulator: vioblk.V86Emulator): vioblk.V86Disk {
  const memory: vioblk.GuestMemory = new LinearMemory(new Uint8Array(ram), { start: 0, written: (_address, _length) => undefined })
  if (memory.region(0) === undefined) throw new Error("no RAM")
  const later = async (): Promise<void> => undefined
  const remote: VirtioBacking = { ...new Zeroes(), asynchronous: true, pread: later, pwrite: later, close: later }
  return vioblk.attachToV86(emulator, remote, { slot: 15, interface: "modern", withoutFeatures: ["MQ"] })
}

export function images(path: string): number {
  vioblk.createImage(path, { size: 1 << 30, clusterSize: 4096, compat: "1.1" })
  const image = vioblk.openImage(path, { readOnly: true, resolveBacking: (reference) => reference.name })
  const extents = image instanceof vioblk.Qcow2Image ? [...image.map(0, image.size)] : []
  image.close()
  const file = new vioblk.HostFile(path)
  return extents.length + vioblk.checkImage(file).exitCode + vioblk.repairImage(file, "leaks").leaks
}

// A typed program is told at compile time what an untyped one is told when it runs.
// @ts-expect-error: the option is called readOnly
export const mistyped = (path: string) => vioblk.openImage(path, { readonly: true })
// @ts-expect-error: a format is spelled in small letters
export const capitals = (path: string) => vioblk.openImage(path, { format: "QCOW2" })
// @ts-expect-error: a backing has more than a size
export const half = () => new VirtioBlk({ size: 512 })
