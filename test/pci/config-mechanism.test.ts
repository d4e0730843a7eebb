/** Configuration mechanism #1: ports 0xCF8 and 0xCFC. */
import { beforeEach, describe, expect, it } from "vitest"
import { PciBus } from "../../src/pci/bus.ts"
import { ConfigMechanism1 } from "../../src/pci/config-mechanism.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { composed, msixFunction, testFunction, WIDTHS } from "./test-function.ts"

const SEED = seedFromEnvironment(0xcf8)

let bus: PciBus
let ports: ConfigMechanism1
beforeEach(() => {
  bus = new PciBus()
  bus.plug(2, testFunction({ deviceId: 0x1042 }))
  ports = new ConfigMechanism1(bus)
})

const address = (
  device: number, register: number, busNumber = 0, fn = 0
): number => 0x8000_0000 + busNumber * 0x1_0000 + device * 0x800 + fn * 0x100 + register

describe("configuration mechanism #1", () => {
  it("claims the eight ports from 0xCF8 to 0xCFF", () => {
    expect([0xcf7, 0xcf8, 0xcfb, 0xcfc, 0xcff, 0xd00].map((port) => ports.claims(port))).toEqual([false, true, true, true, true, false])
  })

  it("the address register keeps enable, bus, device, function and register; its reserved bits read 0; a negative value is its bits",
  () => {
    expect(ports.read(0xcf8, 4)).toBe(0)
    ports.write(0xcf8, 4, 0xffff_ffff)
    expect(ports.read(0xcf8, 4)).toBe(0x80ff_fffc)
    ports.write(0xcf8, 4, 0x8000_1004 - 2 ** 32)
    expect(ports.read(0xcf8, 4)).toBe(0x8000_1004)
  })

  it("reaches the function that the address names, at every width and offset of the data port", () => {
    ports.write(0xcf8, 4, address(2, 0x00))
    expect(ports.read(0xcfc, 4)).toBe(0x1042_1af4)
    expect(ports.read(0xcfe, 2)).toBe(0x1042)
    expect(ports.read(0xcfd, 2)).toBe(0x421a)
    expect([0xcfc, 0xcfd, 0xcfe, 0xcff].map((port) => ports.read(port, 1))).toEqual([0xf4, 0x1a, 0x42, 0x10])
    ports.write(0xcf8, 4, address(2, 0x3c))
    ports.write(0xcfc, 1, 0x0b)
    expect(bus.configRead(0, 2, 0, 0x3c, 4)).toBe(0x0000_010b)
  })

  it("reads of the 256 bytes at any width agree with the function itself", () => {
    bus.plug(5, msixFunction(4))
    for (let register = 0; register < 256; register += 4) {
      ports.write(0xcf8, 4, address(5, register))
      for (const width of WIDTHS) {
        for (let port = 0xcfc; port + width <= 0xd00; port++) {
          const value = ports.read(port, width)
          expect(value).toBe(bus.configRead(0, 5, 0, register + port - 0xcfc, width))
          expect(value).toBe(composed(port, width, (at) => ports.read(at, 1)))
        }
      }
    }
  })

  it("absent functions read all ones of the width; writes to them go nowhere", () => {
    for (const target of [address(3, 0), address(2, 0, 1), address(2, 0, 0, 1), address(31, 0, 255, 7)]) {
      ports.write(0xcf8, 4, target)
      expect(WIDTHS.map((width) => ports.read(0xcfc, width))).toEqual([0xff, 0xffff, 0xffff_ffff])
      ports.write(0xcfc, 4, 0)
    }
  })

  it("without the enable bit the data port is not claimed", () => {
    ports.write(0xcf8, 4, address(2, 0x04) - 0x8000_0000)
    ports.write(0xcfc, 2, 0x0007)
    expect(WIDTHS.map((width) => ports.read(0xcfc, width))).toEqual([0xff, 0xffff, 0xffff_ffff])
    expect(bus.configRead(0, 2, 0, 0x04, 2)).toBe(0)
  })

  it("byte and word accesses, and dwords elsewhere, miss the address register: they read all ones and write nothing", () => {
    ports.write(0xcf8, 4, address(2, 0x10))
    for (const [port, width] of [[0xcf8, 1], [0xcf8, 2], [0xcf9, 1], [0xcfa, 2], [0xcfb, 1], [0xcf9, 4], [0xcfa, 4], [0xcfb, 2]] as const) {
      expect(ports.read(port, width)).toBe(2 ** (8 * width) - 1)
      ports.write(port, width, 0xffff_ffff)
    }
    expect(ports.read(0xcf8, 4)).toBe(address(2, 0x10))
    expect([0x04, 0x0c, 0x10].map((register) => bus.configRead(0, 2, 0, register, 4))).toEqual([0, 0, 1])
  })

  it("an access across the end of the data port reaches only the bytes before 0xD00, and the rest reads as ones", () => {
    ports.write(0xcf8, 4, address(2, 0x00))
    expect(ports.read(0xcff, 2)).toBe(0xff10)
    expect(ports.read(0xcfe, 4)).toBe(0xffff_1042)
    expect(ports.read(0xcfd, 4)).toBe(0xff10_421a)
    ports.write(0xcf8, 4, address(2, 0x20))
    ports.write(0xcfe, 4, 0x1234_e000)
    expect(bus.configRead(0, 2, 0, 0x20, 4)).toBe(0xe000_000c)
    expect(bus.configRead(0, 2, 0, 0x24, 4)).toBe(0)
  })

  it("random writes by ports leave the same configuration space as the same writes to the function", () => {
    const rng = new Rng(SEED)
    const twin = testFunction({ deviceId: 0x1042 })
    for (let step = 0; step < 3000; step++) {
      const width = rng.pick(WIDTHS)
      const register = 4 * rng.below(64)
      const lane = rng.below(5 - width)
      const value = rng.u32()
      ports.write(0xcf8, 4, address(2, register))
      ports.write(0xcfc + lane, width, value)
      twin.configWrite(register + lane, width, value)
    }
    for (let offset = 0; offset < 256; offset += 4) {
      expect(bus.configRead(0, 2, 0, offset, 4), `seed ${SEED} offset ${offset}`).toBe(twin.configRead(offset, 4))
    }
  })
})
