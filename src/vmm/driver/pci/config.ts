/**
 * PCI configuration space access: mechanism #1 (ports 0xCF8 and 0xCFC), and ECAM (memory space) as the alternative.
 */
import { checkCount, checkOptions } from "../../../options.ts"
import { checkPlatform, type Platform, type Width } from "../platform.ts"
import { CONFIG_PORT } from "./spec.ts"

/** Where a PCI function sits. */
export interface PciAddress {
  /** 0 to 255. */
  readonly bus: number
  /** 0 to 31. */
  readonly device: number
  /** 0 to 7. */
  readonly function: number
}

/** A way into configuration space. Reads where nobody answers give all ones. */
export interface ConfigAccess {
  read(at: PciAddress, offset: number, width: Width): number
  write(at: PciAddress, offset: number, width: Width, value: number): void
}

/** "00:04.0", as lspci writes it. */
export function formatPciAddress(at: PciAddress): string {
  return `${at.bus.toString(16).padStart(2, "0")}:${at.device.toString(16).padStart(2, "0")}.${at.function}`
}

/** Mechanism #1, [PCI] 3.2.2.3.2: reaches the first 256 bytes of each function. */
export class ConfigMechanism1Access implements ConfigAccess {
  readonly #platform: Platform

  /** @throws TypeError when `platform` is not a `Platform` */
  constructor(platform: Platform) {
    checkPlatform("ConfigMechanism1Access", platform)
    this.#platform = platform
  }

  read(at: PciAddress, offset: number, width: Width): number {
    return this.#platform.portRead(this.#select(at, offset, width), width)
  }

  write(at: PciAddress, offset: number, width: Width, value: number): void {
    this.#platform.portWrite(this.#select(at, offset, width), width, value)
  }

  /** Points CONFIG_ADDRESS at the doubleword; returns the port of the byte in it. */
  #select(at: PciAddress, offset: number, width: Width): number {
    check(at, offset, width, 256)
    const address = (0x8000_0000 | (at.bus << 16) | (at.device << 11) | (at.function << 8) | (offset & 0xfc)) >>> 0
    this.#platform.portWrite(CONFIG_PORT.ADDRESS, 4, address)
    return CONFIG_PORT.DATA + (offset & 3)
  }
}

export interface EcamOptions {
  /** Guest-physical address of bus 0. */
  readonly base: number
}

/** ECAM, [PCIe] 7.2.2: 4096 bytes of memory space for each function. */
export class Ecam implements ConfigAccess {
  readonly #platform: Platform
  readonly #base: number

  /** @throws TypeError for a platform or an option that is none */
  constructor(platform: Platform, options: EcamOptions) {
    checkPlatform("Ecam", platform)
    checkOptions("Ecam", options, { base: "number" })
    checkCount("Ecam", "base", options.base, 0)
    this.#platform = platform
    this.#base = options.base
  }

  read(at: PciAddress, offset: number, width: Width): number {
    return this.#platform.mmioRead(this.#address(at, offset, width), width)
  }

  write(at: PciAddress, offset: number, width: Width, value: number): void {
    this.#platform.mmioWrite(this.#address(at, offset, width), width, value)
  }

  #address(at: PciAddress, offset: number, width: Width): number {
    check(at, offset, width, 4096)
    return this.#base + ((at.bus << 20) | (at.device << 15) | (at.function << 12) | offset)
  }
}

/** A driver makes aligned accesses only: both mechanisms leave others undefined. */
function check(at: PciAddress, offset: number, width: Width, size: number): void {
  if (!(at.bus >= 0 && at.bus <= 255 && at.device >= 0 && at.device <= 31 && at.function >= 0 && at.function <= 7)) {
    throw new RangeError(`${formatPciAddress(at)} is not a PCI address`)
  }
  if (!Number.isInteger(offset) || offset < 0 || offset + width > size || offset % width !== 0) {
    throw new RangeError(`configuration offset ${offset} with width ${width} is misaligned or beyond ${size}`)
  }
}
