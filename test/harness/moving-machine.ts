/**
 * MovingMachine: the platform of a driver whose machine is saved and continues as another machine while the driver works. The driver sees
 * the same registers, RAM and interrupts all the time, like a program in a virtual machine that is migrated.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import type { InterruptMessage, Platform, PlatformInterrupts, Width } from "../../src/vmm/driver/platform.ts"
import { Machine } from "../../src/vmm/machine.ts"
import type { VirtioBlk } from "../../src/virtio/blk/device.ts"

/** A disk in a machine, over any transport. */
export interface MovingDisk {
  readonly device: VirtioBlk
  readonly transport: {
    saveState(options?: { readonly inFlight?: "again" }): unknown
    restoreState(saved: unknown): void
  }
}

/** Attaches a disk over `backing` to a machine, always at the same place. */
export type Attach = (vm: Machine, backing: VirtioBacking) => MovingDisk

export class MovingMachine implements Platform {
  disk: MovingDisk
  #vm: Machine
  readonly #attach: Attach
  readonly #listeners = new Set<() => void>()
  readonly #ramSize: number

  constructor(ramSize: number, attach: Attach, backing: VirtioBacking) {
    this.#ramSize = ramSize
    this.#attach = attach
    this.#vm = this.#machine(new Uint8Array(ramSize))
    this.disk = attach(this.#vm, backing)
  }

  /**
   * Saves the disk's state, and continues with a new machine, whose RAM is a copy, and a new disk over `backing`. The old machine is left
   * unchanged, and its backing may still answer it.
   */
  move(backing: VirtioBacking, options?: { readonly inFlight: "again" }): void {
    const text = JSON.stringify(this.disk.transport.saveState(options))
    const vm = this.#machine(this.#vm.ram.slice())
    const disk = this.#attach(vm, backing)
    this.#vm = vm
    this.disk = disk
    disk.transport.restoreState(JSON.parse(text))
    if (JSON.stringify(disk.transport.saveState(options)) !== text) throw new Error("what is saved after restoring is another state")
    disk.device.resume()
    this.#tell()
  }

  #machine(ram: Uint8Array): Machine {
    if (ram.length !== this.#ramSize) throw new Error("RAM has another size")
    const vm = new Machine({ memory: ram })
    vm.interrupts.subscribe(() => {
      if (vm === this.#vm) this.#tell()
    })
    return vm
  }

  #tell(): void {
    for (const listener of this.#listeners) listener()
  }

  readonly interrupts: PlatformInterrupts = {
    subscribe: (listener) => {
      this.#listeners.add(listener)
      return () => this.#listeners.delete(listener)
    },
    level: (line) => this.#vm.interrupts.level(line),
    takeMessages: (): readonly InterruptMessage[] => this.#vm.interrupts.takeMessages(),
  }

  portRead(port: number, width: Width): number {
    return this.#vm.portRead(port, width)
  }

  portWrite(port: number, width: Width, value: number): void {
    this.#vm.portWrite(port, width, value)
  }

  mmioRead(address: number, width: Width): number {
    return this.#vm.mmioRead(address, width)
  }

  mmioWrite(address: number, width: Width, value: number): void {
    this.#vm.mmioWrite(address, width, value)
  }

  get ram(): Uint8Array {
    return this.#vm.ram
  }
}
