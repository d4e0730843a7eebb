/** The driver's modern transport over a fake configuration space. */
import { describe, expect, it } from "vitest"
import { ModernDriverTransport } from "../../../../src/vmm/driver/virtio/modern-transport.ts"
import { PciDevice } from "../../../../src/vmm/driver/pci/device.ts"
import { fakeConfig, FakeFunction } from "../pci/fake-config.ts"
import { ramPlatform } from "../ram-platform.ts"

const BAR = 0xf000_0000
const BIT = (bit: number): bigint => 1n << BigInt(bit)

/** Registers that remember: common configuration at 0 of BAR 4, notifications at 0x1000, ISR at 0x2000, device configuration at 0x3000. */
function fakeDevice(options: { multiplier?: number; notifyLength?: number; without?: number } = {}): {
  pci: PciDevice
  registers: DataView
  log: [offset: number, width: number, value: number][]
  onRead: { hook: (offset: number) => void }
} {
  const registers = new DataView(new ArrayBuffer(0x4000))
  const log: [number, number, number][] = []
  const onRead = { hook: (_offset: number): void => undefined }
  const platform = {
    ...ramPlatform(0),
    mmioRead: (address: number, width: 1 | 2 | 4) => {
      const offset = address - BAR
      onRead.hook(offset)
      return width === 1 ? registers.getUint8(offset) : width === 2 ? registers.getUint16(offset, true) : registers.getUint32(offset, true)
    },
    mmioWrite: (address: number, width: number, value: number) => {
      log.push([address - BAR, width, value])
    },
  }
  const fake = new FakeFunction([{ index: 4, mask: 0xffff_c000, flags: 0 }])
  fake.data.setUint32(0x20, BAR, true)
  fake.capabilities(9, 9, 9, 9)
  const structures = [[1, 0, 0x40], [2, 0x1000, options.notifyLength ?? 0x100], [3, 0x2000, 1], [4, 0x3000, 0x60]] as const
  for (const [index, [type, offset, length]] of structures.entries()) {
    const at = 0x40 + 0x20 * index
    fake.data.setUint8(at + 3, type === options.without ? 6 : type)
    fake.data.setUint8(at + 4, 4)
    fake.data.setUint32(at + 8, offset, true)
    fake.data.setUint32(at + 12, length, true)
  }
  fake.data.setUint32(0x60 + 16, options.multiplier ?? 4, true)
  return { pci: new PciDevice(platform, { bus: 0, device: 4, function: 0 }, fakeConfig({ "0:4.0": fake })), registers, log, onRead }
}

describe("the registers of the modern transport", () => {
  it("PCI-13 PCI-14 a queue is described by size and three addresses, low halves first, and enabled last", () => {
    const { pci, log } = fakeDevice()
    new ModernDriverTransport(pci).enableQueue(3, {
      queueSize: 8, descriptorTable: 0x1_2345_6780, availableRing: 0xa_0000_0002, usedRing: 0xffff_fffc,
    })
    expect(log).toEqual([
      [0x16, 2, 3],
      [0x18, 2, 8],
      [0x20, 4, 0x2345_6780],
      [0x24, 4, 1],
      [0x28, 4, 2],
      [0x2c, 4, 10],
      [0x30, 4, 0xffff_fffc],
      [0x34, 4, 0],
      [0x16, 2, 3],
      [0x1c, 2, 1],
    ])
  })

  it("FT-04 features are read and written in two words of 32 bits", () => {
    const { pci, log, registers } = fakeDevice()
    const transport = new ModernDriverTransport(pci)
    registers.setUint32(0x04, 0x8000_0001, true)
    expect(transport.offeredFeatures()).toBe(0x8000_0001_8000_0001n)
    transport.acceptFeatures(0x1_8000_0002n)
    expect(log).toEqual([[0x00, 4, 0], [0x00, 4, 1], [0x08, 4, 0], [0x0c, 4, 0x8000_0002], [0x08, 4, 1], [0x0c, 4, 1]])
  })

  it("PCI-20 PCI-22 a kick is a 16-bit write of the queue's index at queue_notify_off times the multiplier", () => {
    for (const [multiplier, offset] of [[4, 20], [2, 10], [0, 0]] as const) {
      const { pci, log, registers } = fakeDevice({ multiplier })
      registers.setUint16(0x1e, 5, true)
      new ModernDriverTransport(pci).notify(3, 0x1234)
      expect(log.at(-1)).toEqual([0x1000 + offset, 2, 3])
    }
  })

  it("FT-18 VQ-33 with NOTIFICATION_DATA a kick carries the available index in its upper 16 bits", () => {
    const { pci, log } = fakeDevice()
    const transport = new ModernDriverTransport(pci)
    transport.acceptFeatures(BIT(38))
    transport.notify(7, 0x8003)
    expect(log.at(-1)).toEqual([0x1000, 4, 0x8003_0007])
  })

  it("FT-19 PCI-22 with NOTIF_CONFIG_DATA a kick carries the value of queue_notif_config_data", () => {
    const { pci, log, registers } = fakeDevice()
    registers.setUint16(0x38, 0xbeef, true)
    const transport = new ModernDriverTransport(pci)
    transport.acceptFeatures(BIT(39))
    transport.notify(7, 1)
    expect(log.at(-1)).toEqual([0x1000, 2, 0xbeef])
  })

  it("PCI-21 a notification address beyond its structure is an error", () => {
    const { pci, registers } = fakeDevice({ notifyLength: 22 })
    registers.setUint16(0x1e, 5, true)
    expect(() => new ModernDriverTransport(pci).notify(0, 0)).not.toThrow()
    registers.setUint16(0x1e, 6, true)
    expect(() => new ModernDriverTransport(pci).notify(0, 0)).toThrow(expect.objectContaining({ code: "protocol" }))
    registers.setUint16(0x1e, 5, true)
    const wide = new ModernDriverTransport(pci)
    wide.acceptFeatures(BIT(38))
    expect(() => wide.notify(0, 0)).toThrow(expect.objectContaining({ code: "protocol" }))
  })

  it("CF-03 the configuration is read again until its generation is stable, but not forever", () => {
    const { pci, registers, onRead } = fakeDevice()
    const transport = new ModernDriverTransport(pci)
    const reads: number[] = []
    let changes = 3
    onRead.hook = (offset) => {
      // The device changes its configuration between the driver's two accesses.
      if (offset !== 0x3000 || changes-- <= 0) return
      registers.setUint8(0x15, registers.getUint8(0x15) + 1)
      registers.setUint32(0x3000, registers.getUint32(0x3000, true) + 1, true)
    }
    expect(transport.stableConfig(() => (reads.push(transport.readConfig(0, 4)), reads.at(-1)))).toBe(3)
    expect(reads).toEqual([1, 2, 3, 3])
    changes = Number.POSITIVE_INFINITY
    expect(() => transport.stableConfig(() => transport.readConfig(0, 4))).toThrow(expect.objectContaining({ code: "protocol" }))
  })

  it("PCI-23 a queue reset is over when queue_reset and queue_enable both read 0", () => {
    const { pci, log, registers } = fakeDevice()
    const transport = new ModernDriverTransport(pci)
    transport.resetQueue(2)
    expect(log).toEqual([[0x16, 2, 2], [0x3a, 2, 1]])
    for (const [reset, enable, isDone] of [[1, 1, false], [1, 0, false], [0, 1, false], [0, 0, true]] as const) {
      registers.setUint16(0x3a, reset, true)
      registers.setUint16(0x1c, enable, true)
      expect(transport.isQueueReset(2)).toBe(isDone)
    }
  })

  it("PCI-08 a function without one of the structures is no modern device", () => {
    for (const without of [1, 2, 3, 4]) {
      expect(() => new ModernDriverTransport(fakeDevice({ without }).pci)).toThrow(expect.objectContaining({ code: "unsupported" }))
    }
    expect(() => new ModernDriverTransport(fakeDevice().pci, { access: "window" })).toThrow(/configuration access/)
  })
})
