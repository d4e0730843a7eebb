/**
 * Platform: all that the driver knows about its machine, which is what a guest kernel has: port I/O, memory-mapped I/O, RAM and
 * interrupts. A `Machine` is a platform; an emulator can be one, too.
 */
import { checkMembers, type Rules } from "../../options.ts"

/** Bytes of one register access. */
export type Width = 1 | 2 | 4

/** A message-signalled interrupt: the device stored `data` at `address`. */
export interface InterruptMessage {
  readonly address: number
  readonly data: number
}

/** What the interrupt controller shows. */
export interface PlatformInterrupts {
  /**
   * Calls `listener` whenever a line changes its level or a message arrives, possibly in the middle of a register access. Returns a
   * function that ends the subscription.
   */
  subscribe(listener: () => void): () => void
  /** Whether interrupt line `line` (as in PCI configuration space, 0x3C) is asserted. */
  level(line: number): boolean
  /** The messages since the last call, in order. */
  takeMessages(): readonly InterruptMessage[]
}

/** The machine as its guest sees it. Values are unsigned, little-endian numbers of `width` bytes. */
export interface Platform {
  portRead(port: number, width: Width): number
  portWrite(port: number, width: Width, value: number): void
  mmioRead(address: number, width: Width): number
  mmioWrite(address: number, width: Width, value: number): void
  /** Guest-physical memory from 0. It may be replaced at any time (a WebAssembly memory that grows): read it before each use. */
  readonly ram: Uint8Array
  readonly interrupts: PlatformInterrupts
}

const PLATFORM_RULES: Rules<Platform> = {
  portRead: "function", portWrite: "function", mmioRead: "function", mmioWrite: "function", ram: "object", interrupts: "object",
}

/** @throws TypeError when what `who`, a function's name, was given is not a `Platform` */
export function checkPlatform(who: string, platform: Platform): void {
  checkMembers(who, "the platform", platform, PLATFORM_RULES, "Platform")
}
