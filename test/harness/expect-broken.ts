/** Expectations of a device whose driver has broken any rule of a ring. */
import { expect } from "vitest"
import { CONFIG_IRQ, RingGuest } from "./guest.ts"
import { NEEDS_RESET, OK } from "./words.ts"

/**
 * Kicks, and expects DEVICE_NEEDS_RESET, one configuration interrupt, a readable reason, no further activity of the device, and a working
 * device after a reset. `returned`: the heads before the broken one, which must still come back.
 */
export function expectBroken(guest: RingGuest, reason: RegExp, returned: readonly number[] = []): void {
  const ring = guest.ring
  guest.irqs()
  guest.kick()
  expect(guest.status & NEEDS_RESET).toBe(NEEDS_RESET)
  expect(guest.disk.device.brokenBy?.message).toMatch(reason)
  expect(guest.disk.device.brokenBy?.message).not.toContain("\n")
  expect(guest.irqs().filter((irq) => irq === CONFIG_IRQ)).toEqual([CONFIG_IRQ])
  expect(guest.takeUsed(ring).map(({ id }) => id)).toEqual(returned)
  const before = guest.usedIdx(ring)
  guest.kick()
  guest.kick()
  expect([guest.usedIdx(ring), guest.irqs()]).toEqual([before, []])
  expectSound(guest)
}

/** After a reset the device serves requests again. */
export function expectSound(guest: RingGuest): void {
  expect(guest.start()).toBe(guest.legacy ? 0x07 : 0x0f)
  expect(guest.disk.device.brokenBy).toBeUndefined()
  // With one descriptor a request needs an indirect table.
  const { status, length } = guest.run({ type: 0, sector: 0, in: 512 }, { indirect: guest.ring.size < 4 })
  expect([status, length]).toEqual([OK, 513])
}
