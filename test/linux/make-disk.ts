/** `tsx test/linux/make-disk.ts disk.qcow2` makes a bootable disk: GRUB, Debian's kernel, and busybox with a shell on the serial line. */
import { grubDisk } from "./boot-images.ts"
import { run } from "./cache.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { GuestContext } from "./suite.ts"

const path = process.argv[2]
if (path === undefined) {
  console.error("make-disk: name the qcow2 image to make")
  process.exit(2)
}
const context = new GuestContext(() => undefined)
const script = `mount -t ext2 /dev/vda1 /mnt
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo
echo 'The disk is /dev/vda, its file system is on /mnt.'
exec setsid -c sh`
const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"], script })
grubDisk(context, context.path("disk.raw"), { initrd, commandLine: `${KERNEL_LINE} quiet`, mebibytes: 64 })
run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", context.path("disk.raw"), path])
context.close()
console.log(`${path}: made`)
