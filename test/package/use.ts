/** What a TypeScript project compiles against. */
import { BackingError, BlockDriver, findBlockDevices, LinearMemory, Machine, type VirtioBacking, VirtioBlk, VirtioPciFunction } from "vioblk"

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
