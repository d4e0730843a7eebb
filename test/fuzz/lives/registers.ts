/** What the guest of the lives fuzzer does through registers, over each transport. */
import type { Machine } from "../../../src/vmm/machine.ts"
import { LegacyMmioGuest, MMIO, MmioGuest } from "../../harness/mmio.ts"
import { LegacyGuest, ModernGuest } from "../../harness/registers.ts"
import type { Ring } from "../../harness/ring.ts"
import { COMMON, LEGACY_UP, UP } from "../../harness/words.ts"

/** Where the disk is. */
export type Place = ({ readonly slot: number } | { readonly address: number; readonly line: number; readonly version: 1 | 2 }) & {
  /** Its guest is big-endian: so it is a legacy one. */
  readonly isBigEndian: boolean
}

export interface LifeRegisters {
  /** It knows VERSION_1 and what comes with it, the reset of one queue among that. */
  readonly isModern: boolean
  /** The status of a driver at work. */
  readonly up: number
  status: number
  readonly offered: bigint
  negotiate(features: bigint): void
  /** A legacy ring lies on a page of 4096 bytes. */
  enable(queue: number, ring: Ring): void
  kick(queue: number): void
  readonly interrupted: boolean
  /** Takes the interrupt back. Returns what was pending. */
  acknowledge(): number
  /** Registers of a queue that read 0 after a reset. */
  queueState(queue: number): readonly number[]
  /** Returns registers that read 0 then. */
  resetQueue(queue: number): readonly number[]
  /** Over PCI only. */
  readonly setBusMaster?: (enabled: boolean) => void
}

export function registersOf(vm: Machine, place: Place, { isLegacy }: { readonly isLegacy: boolean }): LifeRegisters {
  if ("slot" in place) return isLegacy ? pciLegacy(new LegacyGuest(vm, place.slot)) : pciModern(new ModernGuest(vm, place.slot))
  return place.version === 1 ? mmioLegacy(new LegacyMmioGuest(vm, place)) : mmio(new MmioGuest(vm, place))
}

function pciModern(guest: ModernGuest): LifeRegisters {
  return {
    isModern: true, up: UP,
    get status() {
      return guest.status
    },
    set status(value) {
      guest.status = value
    },
    get offered() {
      return guest.offered
    },
    negotiate: (features) => void guest.negotiate(features),
    enable: (queue, ring) => guest.enable(queue, ring),
    kick: (queue) => guest.kick(queue),
    get interrupted() {
      return guest.interrupted
    },
    acknowledge: () => guest.readIsr(),
    queueState: (queue) => [guest.queueRegister(queue, COMMON.queueEnable, 2), guest.queueRegister(queue, COMMON.queueDesc, 4)],
    resetQueue: (queue) => {
      guest.setQueueRegister(queue, COMMON.queueReset, 2, 1)
      return [guest.queueRegister(queue, COMMON.queueReset, 2), guest.queueRegister(queue, COMMON.queueEnable, 2)]
    },
    setBusMaster: (enabled) => {
      guest.command = enabled ? 7 : 3
    },
  }
}

function pciLegacy(guest: LegacyGuest): LifeRegisters {
  return {
    isModern: false, up: LEGACY_UP,
    get status() {
      return guest.status
    },
    set status(value) {
      guest.status = value
    },
    get offered() {
      return BigInt(guest.offered)
    },
    negotiate: (features) => void guest.negotiate(features),
    enable: (queue, ring) => guest.place(queue, ring.desc / 4096),
    kick: (queue) => guest.kick(queue),
    get interrupted() {
      return guest.interrupted
    },
    acknowledge: () => guest.readIsr(),
    queueState: () => [],
    resetQueue: () => [],
    setBusMaster: (enabled) => {
      guest.command = enabled ? 7 : 3
    },
  }
}

function mmio(guest: MmioGuest): LifeRegisters {
  return {
    ...mmioCommon(guest),
    isModern: true, up: UP,
    get status() {
      return guest.status
    },
    set status(value) {
      guest.status = value
    },
    get offered() {
      return guest.offered
    },
    get interrupted() {
      return guest.interrupted
    },
    negotiate: (features) => void guest.negotiate(features),
    enable: (queue, ring) => guest.enable(queue, ring),
    queueState: (queue) => [guest.queue(queue, MMIO.queueReady)],
    resetQueue: (queue) => {
      guest.setQueue(queue, MMIO.queueReset, 1)
      return [guest.queue(queue, MMIO.queueReset), guest.queue(queue, MMIO.queueReady)]
    },
  }
}

function mmioLegacy(guest: LegacyMmioGuest): LifeRegisters {
  return {
    ...mmioCommon(guest),
    isModern: false, up: LEGACY_UP,
    get status() {
      return guest.status
    },
    set status(value) {
      guest.status = value
    },
    get offered() {
      return BigInt(guest.offeredWord(0))
    },
    get interrupted() {
      return guest.interrupted
    },
    negotiate: (features) => guest.negotiate(Number(features & 0xffff_ffffn)),
    enable: (queue, ring) => guest.enable(queue, { size: ring.size, page: ring.desc / 4096 }),
    queueState: (queue) => [guest.queue(queue, MMIO.queuePfn)],
    resetQueue: () => [],
  }
}

function mmioCommon(guest: MmioGuest | LegacyMmioGuest): Pick<LifeRegisters, "kick" | "acknowledge"> {
  return {
    kick: (queue) => guest.kick(queue),
    acknowledge: () => {
      const pending = guest.interruptStatus
      guest.acknowledge(pending)
      return pending
    },
  }
}
