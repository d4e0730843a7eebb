/** Persistent dirty bitmaps of an image that answers late: the same as of one that answers at once, awaited. */
import { expect, it } from "vitest"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng } from "../../support/rng.ts"
import { LateFile } from "./late-file.ts"

const SIZE = 1 << 20

it("QC-BMP-09 QC-BMP-10 bitmaps in a late file are listed, added, cleared and removed, and show changes (seed 31)", async () => {
  const file = new MemoryFile({ path: "disk.qcow2" })
  createQcow2(file, { size: SIZE, clusterSize: 4096 })
  const disk = await openDisk(new LateFile(file, new Rng(31)), { format: "qcow2" })
  const { bitmaps } = disk
  if (bitmaps === undefined) throw new Error("a qcow2 image has bitmaps")
  expect(await bitmaps.list()).toEqual([])
  await bitmaps.add("one", { granularity: 4096 })
  await bitmaps.add("two")
  await bitmaps.add("off", { isEnabled: false })
  await disk.pwrite(new Uint8Array(5000).fill(1), 100_000)
  await bitmaps.clear("two")
  await bitmaps.enable("off")
  await disk.pwrite(new Uint8Array(512).fill(2), 500_000)
  await bitmaps.disable("off")
  await bitmaps.remove("two")
  expect([...await bitmaps.changed("one")]).toEqual([{ offset: 98_304, length: 8192 }, { offset: 499_712, length: 4096 }])
  expect([...await bitmaps.changed("off")]).toEqual([{ offset: 499_712, length: 4096 }])
  await bitmaps.add("all", { granularity: 512, isEnabled: false })
  await bitmaps.merge("all", "off")
  expect([...await bitmaps.changed("all")]).toEqual([{ offset: 499_712, length: 4096 }])
  await bitmaps.remove("all")
  await expect((async () => await bitmaps.clear("two"))()).rejects.toMatchObject({ code: "not-found" })
  await disk.close()
  const kept = file.clone()
  expect(checkQcow2(kept.clone({ readOnly: true }))).toMatchObject({ corruptions: 0, leaks: 0 })
  const again = openQcow2(kept)
  expect(again.bitmaps.list().map(({ name, isConsistent }) => [name, isConsistent])).toEqual([["one", true], ["off", true]])
  expect([...again.bitmaps.changed("one")]).toEqual([{ offset: 98_304, length: 8192 }, { offset: 499_712, length: 4096 }])
})
