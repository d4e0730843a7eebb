/** The driver and a zoned disk of ours over a Machine: two readings of the specification that must agree. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../../src/backing/memory.ts"
import { zonedDisk } from "../../../../src/backing/zoned/zoned-disk.ts"
import { BlockDriver, findBlockDevices } from "../../../../src/vmm/driver/block/driver.ts"
import { BlockRequestError, DriverError } from "../../../../src/vmm/driver/errors.ts"
import { Machine } from "../../../../src/vmm/machine.ts"
import { Rng } from "../../../support/rng.ts"

const S = 512
const ZONE = 4096

async function open(features: { readonly refuse?: readonly ["ZONED"] } = {}): Promise<BlockDriver> {
  const machine = new Machine({ ramSize: 8 << 20 })
  machine.attachDisk(zonedDisk(new MemoryBacking({ size: 300 * ZONE * S }), {
    zoneSize: ZONE * S, zoneCapacity: 3000 * S, conventionalZones: 2, maxOpenZones: 3, maxActiveZones: 4,
  }))
  const [device] = findBlockDevices(machine)
  if (device === undefined) throw new Error("no disk on the bus")
  return BlockDriver.open(device, { features })
}

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(() => "OK", (error: unknown) => (error instanceof BlockRequestError ? error.status : error))

describe("a zoned disk", () => {
  it("shows its model and limits", async () => {
    const driver = await open()
    expect(driver.identify().zoned).toEqual({
      model: "host-managed", zoneSectors: ZONE, maxOpenZones: 3, maxActiveZones: 4, maxAppendSectors: 2048, writeGranularity: 512,
    })
  })

  it("reports all zones, in several requests, or those asked for", async () => {
    const { zones } = await open()
    const all = await zones.report()
    expect(all.map(({ start }) => start)).toEqual(Array.from({ length: 300 }, (_, zone) => zone * ZONE))
    expect([all[0], all[2]]).toEqual([
      { type: "CONV", state: "NOT_WP", start: 0, capacity: ZONE, writePointer: ZONE },
      { type: "SWR", state: "EMPTY", start: 2 * ZONE, capacity: 3000, writePointer: 2 * ZONE },
    ])
    expect((await zones.report(299 * ZONE + 5, 7)).map(({ start }) => start)).toEqual([299 * ZONE])
    expect((await zones.report(ZONE - 1, 2)).map(({ start }) => start)).toEqual([0, ZONE])
  })

  it("takes long writes, appends and reads, and is opened, closed, finished and reset", async () => {
    const driver = await open()
    const { zones } = driver
    const data = new Rng(5).bytes(2500 * S)
    await driver.write(2 * ZONE, data)
    expect(await zones.append(2 * ZONE, data.subarray(0, 400 * S))).toBe(2 * ZONE + 2500)
    expect(Buffer.compare(await driver.read(2 * ZONE + 2500, 400), data.subarray(0, 400 * S))).toBe(0)
    expect((await zones.report(2 * ZONE, 1))[0]).toMatchObject({ state: "IOPEN", writePointer: 2 * ZONE + 2900 })
    const seen: (string | undefined)[] = []
    for (const act of [zones.open, zones.close, zones.finish, zones.reset]) {
      await act.call(zones, 2 * ZONE)
      seen.push((await zones.report(2 * ZONE, 1))[0]?.state)
    }
    expect(seen).toEqual(["EOPEN", "CLOSED", "FULL", "EMPTY"])
    await zones.append(5 * ZONE, data.subarray(0, S))
    await zones.resetAll()
    expect((await zones.report()).every(({ state }) => state === "NOT_WP" || state === "EMPTY")).toBe(true)
  })

  it("rejects with the error names of the specification", async () => {
    const driver = await open()
    const { zones } = driver
    const one = new Uint8Array(S)
    const [a, b, c, d, e] = [2, 3, 4, 5, 6].map((zone) => zone * ZONE) as [number, number, number, number, number]
    expect([await failure(driver.write(a + 1, one)), await failure(zones.reset(a + 1))]).toEqual(["ZONE_UNALIGNED_WP", "ZONE_INVALID_CMD"])
    for (const zone of [a, b, c]) await zones.open(zone)
    expect(await failure(zones.open(d))).toBe("ZONE_OPEN_RESOURCE")
    await driver.write(a, one)
    await zones.close(a)
    await zones.open(d)
    expect(await failure(zones.append(e, one))).toBe("ZONE_ACTIVE_RESOURCE")
    await expect(zones.open(e)).rejects.toThrow(`ZONE_OPEN at sector ${e} failed: ZONE_ACTIVE_RESOURCE (too many zones are open or closed)`)
  })

  it("takes no requests for zones without ZONED, and is refused if it is host-managed", async () => {
    await expect(open({ refuse: ["ZONED"] })).rejects.toThrow("refuses the features")
    const machine = new Machine({ ramSize: 1 << 20 })
    machine.attachDisk(new MemoryBacking({ size: 1 << 20 }))
    const [device] = findBlockDevices(machine)
    if (device === undefined) throw new Error("no disk on the bus")
    const driver = await BlockDriver.open(device)
    expect(driver.identify().zoned).toBeUndefined()
    for (const call of [driver.zones.report(), driver.zones.resetAll(), driver.zones.append(0, new Uint8Array(S))]) {
      await expect(call).rejects.toThrow(DriverError)
    }
  })
})
