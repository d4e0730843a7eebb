/** `tsx test/linux/make-disk.ts disk.qcow2` makes a bootable disk: GRUB, Debian's kernel, and busybox with a shell on the serial line. */
import { shellDisk } from "./boot-images.ts"
import { run } from "./cache.ts"
import { GuestContext } from "./suite.ts"

const path = process.argv[2]
if (path === undefined) {
  console.error("make-disk: name the qcow2 image to make")
  process.exit(2)
}
const context = new GuestContext(() => undefined)
shellDisk(context.path("disk.raw"), 64)
run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", context.path("disk.raw"), path])
context.close()
console.log(`${path}: made`)
