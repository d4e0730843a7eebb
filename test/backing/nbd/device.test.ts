/** A guest with a disk behind NBD: what it was told is written stays written, whatever happens to the connection. */
import { expect, it } from "vitest"
import { BlockDriver, findBlockDevices, Machine } from "../../../src/index.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { FakeServer } from "./fake-server.ts"
import { openFake } from "./open-fake.ts"

const seed = seedFromEnvironment(8)

it(`a guest does not notice that the server crashes now and then (SEED=${seed})`, async () => {
  const rng = new Rng(seed)
  const server = new FakeServer({ size: 1 << 20, rng })
  const { disk } = await openFake(server, { reconnectTimeout: 1_000_000 })
  const vm = new Machine({ ramSize: 16 << 20 })
  vm.attachDisk(disk)
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("no block device")
  const driver = await BlockDriver.open(found)
  let crashes = 0
  server.answer = (request, connection) => {
    if (!rng.chance(0.05)) return server.serve(request, connection)
    crashes++
    server.crash(rng)
  }
  const expected = new Uint8Array(1 << 20)
  for (let round = 0; round < 30; round++) {
    const places = rng.shuffle([0, 1, 2, 3, 4, 5, 6, 7]).slice(0, 6)
    await Promise.all(places.map(async (place) => {
      const data = rng.bytes(512 * rng.between(1, 32))
      const sector = place * 256 + rng.below(200)
      await driver.write(sector, data)
      expected.set(data, sector * 512)
    }))
    if (rng.chance(0.3)) await driver.flush()
    const sector = rng.below(2000)
    expect(Buffer.compare(await driver.read(sector, 40), expected.subarray(sector * 512, (sector + 40) * 512))).toBe(0)
  }
  await driver.flush()
  expect(crashes).toBeGreaterThan(0)
  expect(Buffer.compare(server.stable, expected)).toBe(0)
})

it("answers that come after a reset of the device change nothing in the guest's RAM", async () => {
  const server = new FakeServer({ size: 1 << 20 })
  const { disk } = await openFake(server)
  server.content.fill(0x77)
  const vm = new Machine({ ramSize: 16 << 20 })
  vm.attachDisk(disk)
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("no block device")
  const first = await BlockDriver.open(found)
  const held: (() => void)[] = []
  server.answer = (request, connection) => held.push(() => server.serve(request, connection))
  const lost = first.read(0, 8).catch(() => "lost")
  while (held.length === 0) await new Promise((resolve) => setImmediate(resolve))
  const second = await BlockDriver.open(found)
  const ram = vm.ram.slice()
  for (const answer of held) answer()
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
  expect(Buffer.compare(vm.ram, ram)).toBe(0)
  server.answer = (request, connection) => server.serve(request, connection)
  expect((await second.read(0, 1))[0]).toBe(0x77)
  expect(await lost).toBe("lost")
})
