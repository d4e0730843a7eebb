// What a page does with the installed package. The test awaits `outcome`.
import { attachToV86, BackingError, BlockDriver, findBlockDevices, Machine, MemoryBacking } from "vioblk"
import * as vioblk from "vioblk"

async function use() {
  const vm = new Machine({ ramSize: 16 << 20 })
  vm.attachDisk(new MemoryBacking({ size: 1 << 30 }), { serial: "packed" })
  const [pci] = findBlockDevices(vm)
  const disk = await BlockDriver.open(pci)
  await disk.write(8, new Uint8Array(4096).fill(7))
  const back = await disk.read(8, 8)
  if (!back.every((byte) => byte === 7) || (await disk.getId()) !== "packed") throw new Error("the disk does not hold what was written")
  if (typeof attachToV86 !== "function" || new BackingError("io", "x").code !== "io") throw new Error("a name is not what it should be")
  return Object.keys(vioblk).sort().join(" ")
}

globalThis.outcome = use()
