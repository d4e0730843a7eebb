// What a page does with the installed package. The test awaits `outcome`.
import {
  attachToV86, BackingError, blobFile, BlockDriver, createDisk, findBlockDevices, Machine, MemoryBacking, openDisk, opfsFile,
} from "vioblk"
import * as vioblk from "vioblk"

async function use() {
  await useMemory()
  await useStorage()
  if (typeof attachToV86 !== "function" || new BackingError("io", "x").code !== "io") throw new Error("a name is not what it should be")
  return Object.keys(vioblk).sort().join(" ")
}

async function useMemory() {
  const vm = new Machine({ ramSize: 16 << 20 })
  vm.attachDisk(new MemoryBacking({ size: 1 << 30 }), { serial: "packed" })
  const [pci] = findBlockDevices(vm)
  const disk = await BlockDriver.open(pci)
  await disk.write(8, new Uint8Array(4096).fill(7))
  const back = await disk.read(8, 8)
  if (!back.every((byte) => byte === 7) || (await disk.getId()) !== "packed") throw new Error("the disk does not hold what was written")
}

/** An overlay in the browser's storage, through the worker that the package brings along, over a Blob. */
async function useStorage() {
  const overlay = await opfsFile("packed.qcow2", { create: true })
  await createDisk(overlay, { size: 1 << 20, backing: "base.img", backingFormat: "raw" })
  const disk = await openDisk(overlay, { format: "qcow2", backing: () => blobFile(new Blob([new Uint8Array(1 << 20).fill(5)])) })
  await disk.pwrite(new Uint8Array(512).fill(7), 4096)
  await disk.flush()
  const back = new Uint8Array(1024)
  await disk.pread(back, 4096)
  await disk.close()
  if (!back.every((byte, index) => byte === (index < 512 ? 7 : 5))) throw new Error("the overlay and its base do not hold what they should")
}

globalThis.outcome = use()
