// What a plain JavaScript project does with the installed package.
import { BlockDriver, findBlockDevices, Machine, MemoryBacking } from "vioblk"

const vm = new Machine({ ramSize: 16 << 20 })
vm.attachDisk(new MemoryBacking({ size: 1 << 30 }), { serial: "packed" })
const [pci] = findBlockDevices(vm)
const disk = await BlockDriver.open(pci)
await disk.write(8, new Uint8Array(4096).fill(7))
const back = await disk.read(8, 8)
if (!back.every((byte) => byte === 7) || (await disk.getId()) !== "packed") throw new Error("the disk does not hold what was written")
console.log("javascript: ok")
