/** Which driver has which device. Two drivers on one device would take each other's interrupts and memory. */
import type { Platform } from "../platform.ts"

export interface Owner {
  /** Another driver has reset the device and taken it over. */
  superseded(): void
}

/** By platform, then by PCI address. */
const owners = new WeakMap<Platform, Map<string, Owner>>()

/** Makes `owner` the one that has the device at `address`, and tells the one before. */
export function takeOver(platform: Platform, address: string, owner: Owner): void {
  const devices = owners.get(platform) ?? new Map<string, Owner>()
  owners.set(platform, devices)
  const before = devices.get(address)
  devices.set(address, owner)
  if (before !== owner) before?.superseded()
}

export function isOwner(platform: Platform, address: string, owner: Owner): boolean {
  return owners.get(platform)?.get(address) === owner
}

/** Leaves the device at `address` without an owner. */
export function giveUp(platform: Platform, address: string): void {
  owners.get(platform)?.delete(address)
}
