/**
 * A third transport, and its driver's side: the device answers calls by name, as a hypervisor answers hypercalls. It shows what a transport
 * has to do: everything else is the device's.
 */
import type { DeviceSignals, GuestMemory, Transportable, TransportedDevice } from "../../src/index.ts"
import type { DriverTransport, Platform, RamAllocator, RingAddresses, RingAllocation, VirtioBus } from "../../src/index.ts"

export type Call = (name: string, a?: number, b?: number) => number

/** The device's side. Bit 0 of what is pending: used buffers, bit 1: the configuration. The line is up while any is set. */
export class CallTransport implements DeviceSignals {
  readonly #device: TransportedDevice
  readonly #interrupt: (level: boolean) => void
  #pending = 0

  constructor({ virtio }: Transportable, wiring: { readonly memory: GuestMemory; readonly interrupt: (level: boolean) => void }) {
    this.#device = virtio
    this.#interrupt = wiring.interrupt
    virtio.attach({ memory: wiring.memory, signals: this, transitional: false })
  }

  queueInterrupt = (): void => this.#show(this.#pending | 1)
  configInterrupt = (): void => this.#show(this.#pending | 2)
  deviceReset = (): void => this.#show(0)

  #show(pending: number): void {
    this.#pending = pending
    this.#interrupt(pending !== 0)
  }

  readonly #calls: Readonly<Record<string, (a: number, b: number) => unknown>> = {
    status: () => this.#device.status,
    setStatus: (status) => this.#device.writeStatus(status),
    offered: (word) => this.#device.negotiation.deviceFeatures(word),
    accept: (word, bits) => this.#device.setDriverFeatures(word, bits),
    accepted: (word) => this.#device.negotiation.driverFeatures(word),
    size: (queue) => this.#device.queue(queue)?.size,
    setSize: (queue, size) => this.#device.queue(queue)?.setSize(size),
    setDescriptors: (queue, address) => this.#device.queue(queue)?.setArea("descriptorTable", address),
    setAvailable: (queue, address) => this.#device.queue(queue)?.setArea("availRing", address),
    setUsed: (queue, address) => this.#device.queue(queue)?.setArea("usedRing", address),
    enable: (queue) => this.#device.queue(queue)?.enable(),
    kick: (queue) => this.#device.notify(queue),
    config: (offset, width) => this.#device.config.read(offset, width),
    generation: () => this.#device.config.readGeneration(),
    setConfig: (offset, byte) => this.#device.writeConfig(offset, 1, byte),
    pending: () => this.#pending,
    acknowledge: (bits) => this.#show(this.#pending & ~bits),
  }

  readonly call: Call = (name, a = 0, b = 0) => Number(this.#calls[name]?.(a, b) ?? 0)
}

/** The driver's side: the device on its "bus", which is a function, and its registers. */
export function callBus(platform: Platform, interruptLine: number, call: Call): VirtioBus {
  const words = (name: string): bigint => BigInt(call(name, 0)) | (BigInt(call(name, 1)) << 32n)
  const transport: DriverTransport = {
    kind: "modern",
    get status() {
      return call("status")
    },
    set status(value: number) {
      call("setStatus", value)
    },
    offeredFeatures: () => words("offered"),
    acceptFeatures: (bits) => [0, 1].forEach((word) => call("accept", word, Number((bits >> BigInt(32 * word)) & 0xffff_ffffn))),
    acceptedFeatures: () => words("accepted"),
    queueSize: (queue) => call("size", queue),
    allocateRing: allocate,
    enableQueue: (queue, { queueSize, descriptorTable, availableRing, usedRing }) => {
      call("setSize", queue, queueSize)
      call("setDescriptors", queue, descriptorTable)
      call("setAvailable", queue, availableRing)
      call("setUsed", queue, usedRing)
      call("enable", queue)
    },
    notify: (queue) => void call("kick", queue),
    readIsr: () => {
      const pending = call("pending")
      call("acknowledge", pending)
      return pending
    },
    mapConfigVector: () => 0xffff,
    mapQueueVector: () => 0xffff,
    readConfig: (offset, width) => call("config", offset, width),
    writeConfig: (offset, _width, value) => void call("setConfig", offset, value),
    stableConfig: (read) => read(),
  }
  return { platform, name: "the device that answers calls", interruptLine, open: () => transport, isInPlace: () => true }
}

function allocate(allocator: RamAllocator, size: number): RingAllocation {
  const piece = allocator.allocate(32 * size + 4096, 4096)
  const layout: RingAddresses = {
    queueSize: size, descriptorTable: piece, availableRing: piece + 16 * size, usedRing: piece + 20 * size + 8,
  }
  return { layout, pieces: [piece] }
}
