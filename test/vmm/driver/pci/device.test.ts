/** Enumeration, capabilities and BARs, as the driver sees them. */
import { describe, expect, it } from "vitest"
import { ConfigMechanism1Access, Ecam } from "../../../../src/vmm/driver/pci/config.ts"
import { enumeratePci, PciDevice } from "../../../../src/vmm/driver/pci/device.ts"
import type { Platform } from "../../../../src/vmm/driver/platform.ts"
import { virtioCapabilities } from "../../../../src/vmm/driver/virtio/capabilities.ts"
import { fakeConfig, FakeFunction } from "./fake-config.ts"
import { ramPlatform } from "../ram-platform.ts"

const PLATFORM = ramPlatform(0)
const AT = { bus: 0, device: 4, function: 0 }

function deviceOf(fake: FakeFunction): PciDevice {
  return new PciDevice(PLATFORM, AT, fakeConfig({ "0:4.0": fake }))
}

describe("configuration accesses", () => {
  it("mechanism #1 writes the address to 0xCF8 and moves the bytes at 0xCFC to 0xCFF", () => {
    const log: (string | number)[][] = []
    const platform: Platform = {
      ...PLATFORM,
      portRead: (port, width) => (log.push(["in", port, width]), 0x12),
      portWrite: (port, width, value) => log.push(["out", port, width, value]),
    }
    const config = new ConfigMechanism1Access(platform)
    expect(config.read({ bus: 0xab, device: 31, function: 7 }, 0x3d, 1)).toBe(0x12)
    config.write({ bus: 0, device: 4, function: 0 }, 0x06, 2, 0x1234)
    expect(log).toEqual([
      ["out", 0xcf8, 4, 0x80ab_ff3c],
      ["in", 0xcfd, 1],
      ["out", 0xcf8, 4, 0x8000_2004],
      ["out", 0xcfe, 2, 0x1234],
    ])
  })

  it("ECAM addresses bus, device, function and register in memory space", () => {
    const log: (string | number)[][] = []
    const platform: Platform = {
      ...PLATFORM,
      mmioRead: (address, width) => (log.push(["load", address, width]), 0x12),
      mmioWrite: (address, width, value) => log.push(["store", address, width, value]),
    }
    const config = new Ecam(platform, { base: 0xe000_0000 })
    config.read({ bus: 0xff, device: 31, function: 7 }, 0xffc, 4)
    config.write({ bus: 1, device: 2, function: 3 }, 0x104, 2, 5)
    expect(log).toEqual([
      ["load", 0xefff_fffc, 4],
      ["store", 0xe000_0000 + 0x10_0000 + 2 * 0x8000 + 3 * 0x1000 + 0x104, 2, 5],
    ])
  })

  it("misaligned accesses and those beyond the space are refused", () => {
    const config = new ConfigMechanism1Access(PLATFORM)
    for (const [offset, width] of [[1, 2], [2, 4], [256, 1], [-1, 1], [0.5, 1]] as const) {
      expect(() => config.read(AT, offset, width)).toThrow(RangeError)
    }
    expect(() => config.read({ ...AT, device: 32 }, 0, 1)).toThrow(/is not a PCI address/)
    expect(() => new Ecam(PLATFORM, { base: 0 }).read(AT, 4096, 1)).toThrow(RangeError)
  })
})

describe("BARs", () => {
  const fake = new FakeFunction([
    { index: 0, mask: 0x0000_ff80, flags: 0x1 },
    { index: 1, mask: 0xffff_f000, flags: 0x0 },
    { index: 2, mask: 0xffff_0000, flags: 0xc },
    { index: 3, mask: 0xffff_ffff, flags: 0x0 },
    { index: 4, mask: 0x0000_0000, flags: 0x4 },
    { index: 5, mask: 0xffff_fffe, flags: 0x0 },
  ])

  it("are sized: I/O with 16 bits, 32-bit memory, 64-bit memory below and above 4 GiB", () => {
    expect(deviceOf(fake).bars()).toEqual([
      { index: 0, space: "io", address: 0, size: 128, is64Bit: false, prefetchable: false },
      { index: 1, space: "memory", address: 0, size: 4096, is64Bit: false, prefetchable: false },
      { index: 2, space: "memory", address: 0, size: 65536, is64Bit: true, prefetchable: true },
      { index: 4, space: "memory", address: 0, size: 2 * 2 ** 32, is64Bit: true, prefetchable: false },
    ])
  })

  it("are not decoded while they are sized or moved, and keep their decoding and contents", () => {
    const device = deviceOf(fake)
    fake.data.setUint32(0x14, 0xfebd_1000, true)
    fake.write(4, 2, 0x0407)
    const commands: number[] = []
    const original = fake.write.bind(fake)
    fake.write = (offset, width, value) => {
      if (offset >= 0x10 && offset < 0x28) commands.push(fake.data.getUint16(4, true))
      original(offset, width, value)
    }
    expect(device.bars()[1]?.address).toBe(0xfebd_1000)
    device.setBarAddress(2, 0x12_3456_0000)
    fake.write = original
    expect(new Set(commands)).toEqual(new Set([0x0404]))
    expect(fake.data.getUint16(4, true)).toBe(0x0407)
    expect(device.bars()[2]?.address).toBe(0x12_3456_0000)
    expect(fake.data.getUint32(0x18, true)).toBe(0x3456_000c)
  })

  it("are placed only where they fit, and an address that does not read back is an error", () => {
    const device = deviceOf(fake)
    expect(() => device.setBarAddress(2, 0x1000)).toThrow(/cannot start/)
    expect(() => device.setBarAddress(1, 2 ** 32)).toThrow(/32 bits/)
    expect(() => device.setBarAddress(3, 0)).toThrow(/no BAR 3/)
    fake.writable.set(0x14, 0)
    expect(() => device.setBarAddress(1, 0x2000)).toThrow(expect.objectContaining({ code: "protocol" }))
  })

  it("cannot be accessed before they are placed", () => {
    expect(
      () => deviceOf(new FakeFunction([{ index: 0, mask: 0xffc0, flags: 1 }])).registers(0),
    ).toThrow(expect.objectContaining({ code: "no-device" }))
  })
})

describe("capabilities", () => {
  it("PCI-05 the list is walked in order, with the reserved low bits of pointers masked", () => {
    const fake = new FakeFunction()
    fake.capabilities(0x11, 0x09, 0x05)
    fake.data.setUint8(0x34, 0x43)
    expect(deviceOf(fake).capabilities()).toEqual([{ id: 0x11, offset: 0x40 }, { id: 0x09, offset: 0x60 }, { id: 0x05, offset: 0x80 }])
  })

  it("PCI-05 without the status bit there is no list, and a list that loops or runs into the header is an error", () => {
    const fake = new FakeFunction()
    fake.capabilities(0x11, 0x09)
    fake.data.setUint8(0x61, 0x40)
    expect(() => deviceOf(fake).capabilities()).toThrow(/loops/)
    fake.data.setUint8(0x61, 0x20)
    expect(() => deviceOf(fake).capabilities()).toThrow(/into the header/)
    fake.data.setUint16(6, 0, true)
    expect(deviceOf(fake).capabilities()).toEqual([])
  })

  it("PCI-06 PCI-07 virtio structures are decoded; reserved types and reserved BARs are ignored", () => {
    const fake = new FakeFunction()
    fake.capabilities(0x09, 0x09, 0x09, 0x11, 0x09)
    const set = (at: number, type: number, bar: number, offset: number): void => {
      fake.data.setUint8(at + 2, 16)
      fake.data.setUint8(at + 3, type)
      fake.data.setUint8(at + 4, bar)
      fake.data.setUint8(at + 5, 7)
      fake.data.setUint32(at + 8, offset, true)
      fake.data.setUint32(at + 12, 0x9000_0000, true)
    }
    set(0x40, 6, 4, 0)
    set(0x60, 1, 6, 0)
    set(0x80, 1, 5, 0xf000_0004)
    set(0xc0, 5, 9, 0)
    expect(virtioCapabilities(deviceOf(fake))).toEqual([
      { type: 1, bar: 5, id: 7, offset: 0xf000_0004, length: 0x9000_0000, capabilityLength: 16, at: 0x80 },
      { type: 5, bar: 9, id: 7, offset: 0, length: 0x9000_0000, capabilityLength: 16, at: 0xc0 },
    ])
  })
})

describe("enumeration", () => {
  it("finds every function of every device, and looks beyond function 0 only in multi-function devices", () => {
    const multi = new FakeFunction()
    multi.data.setUint8(0x0e, 0x80)
    const functions = {
      "0:0.0": new FakeFunction(),
      "0:0.3": new FakeFunction(),
      "0:31.0": multi,
      "0:31.2": new FakeFunction(),
      "0:31.7": new FakeFunction(),
      "5:1.0": new FakeFunction(),
    }
    const config = fakeConfig(functions)
    expect(enumeratePci(PLATFORM, { config }).map((device) => device.name)).toEqual(["00:00.0", "00:1f.0", "00:1f.2", "00:1f.7"])
    expect(enumeratePci(PLATFORM, { config, buses: [5, 0] }).map((device) => device.name)[0]).toBe("05:01.0")
  })

  it("reads identity and interrupt line from the header", () => {
    const fake = new FakeFunction()
    fake.data.setUint32(0x08, 0x0108_0207, true)
    fake.data.setUint32(0x2c, 0x0002_1af4, true)
    const device = deviceOf(fake)
    expect([
      device.vendorId, device.deviceId, device.revisionId, device.classCode, device.subsystemVendorId, device.subsystemId,
    ]).toEqual([0x1af4, 0x1001, 7, 0x01_0802, 0x1af4, 2])
    expect(device.interruptLine).toBeUndefined()
    fake.data.setUint16(0x3c, 0x01_0b, true)
    expect(device.interruptLine).toBe(11)
    fake.data.setUint16(0x3c, 0x01_ff, true)
    expect(device.interruptLine).toBeUndefined()
  })
})
