/** A whole Debian in a qcow2 image: SeaBIOS, GRUB, the kernel, init and the package manager all use our disk. */
import { copyFileSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { attachToV86 } from "../../src/vmm/v86/attach.ts"
import { grubDisk } from "./boot-images.ts"
import { once, run } from "./cache.ts"
import { checkClean, contentOf, open } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { busybox, debianKernel, debianPackages } from "./packages.ts"
import { type GuestContext, type GuestTest, matches, same } from "./suite.ts"

const MEBIBYTES = 512

/**
 * An i386 root file system made by debootstrap, with System V init and a login on the serial line. This needs root: debootstrap makes
 * device nodes and runs maintainer scripts in a chroot.
 */
function debianRoot(): string {
  return join(once("debian-root", (path) => {
    if (process.getuid?.() !== 0) throw new Error("debootstrap needs root")
    const tools = debianPackages("debootstrap", ["debootstrap"])
    const [suite, mirror] = run("apt-get", ["indextargets", "--format", "$(CODENAME) $(REPO_URI) $(COMPONENT)", "Created-By: Packages"])
      .split("\n")
        .map((line) => line.split(" "))
        .find(([codename = "", , component]) => component === "main" && /^[a-z]+$/.test(codename)) ?? []
    if (suite === undefined || mirror === undefined) throw new Error("the machine's apt sources name no Debian suite")
    const root = join(path, "root")
    run(join(tools, "usr/sbin/debootstrap"), ["--arch=i386", "--variant=minbase", "--include=sysvinit-core,kmod", suite, root, mirror],
      { env: { DEBOOTSTRAP_DIR: join(tools, "usr/share/debootstrap") } })
    run("rm", [
      "-rf",
      join(root, "var/cache/apt/archives"),
      join(root, "var/lib/apt/lists"),
      join(root, "usr/share/doc"),
      join(root, "usr/share/locale"),
    ])
    writeFileSync(join(root, "etc/hostname"), "guest\n")
    writeFileSync(join(root, "etc/fstab"), "/dev/vda1 / ext4 errors=remount-ro 0 1\n")
    writeFileSync(join(root, "etc/inittab"), `id:2:initdefault:
si::sysinit:/etc/init.d/rcS
l0:0:wait:/etc/init.d/rc 0
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
S0:2345:respawn:/sbin/getty -L ttyS0 115200 vt100
`)
    run("sed", ["-i", "s/^root:[^:]*:/root::/", join(root, "etc/shadow")])
    copyFileSync(packageOf("busybox"), join(root, "root/package.deb"))
  }), "root")
}

/** The .deb file of a package in the cache. */
function packageOf(name: string): string {
  const folder = join(busybox(), "../..")
  const file = readdirSync(folder).find((entry) => entry.startsWith(name) && entry.endsWith(".deb"))
  if (file === undefined) throw new Error(`${folder}: no package of ${name}`)
  return join(folder, file)
}

async function debian(context: GuestContext): Promise<string> {
  const raw = context.path("debian.raw")
  // The root file system is on the disk. The modules that the kernel needs to mount it are in the initramfs, which saves v86 time.
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"],
    script: "mount -t ext4 -o ro /dev/vda1 /mnt && umount /proc /sys && mount --move /dev /mnt/dev && exec switch_root /mnt /sbin/init" })
  grubDisk(context, raw, { initrd, commandLine: `${KERNEL_LINE} quiet`, mebibytes: MEBIBYTES, root: debianRoot(), type: "ext4" })
  const path = context.path("debian.qcow2")
  run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, path])
  const first = await session(context, path, async (guest) => {
    await guest.login()
    await guest.shell("dpkg -i /root/package.deb")
    await guest.shell(
      "tar -C /usr -cf /root/usr.tar bin sbin lib/i386-linux-gnu && mkdir /root/copy && tar -C /root/copy -xf /root/usr.tar",
    )
    await guest.shell(
      "rm /root/usr.tar; cp /bin/busybox /root/copy; cd /root/copy && find . -type f | sort | xargs sha256sum >/root/sums; sync; cd /",
    )
    return guest.shell("wc -l </root/sums; sha256sum /root/sums")
  })
  const second = await session(context, path, async (guest) => {
    await guest.login()
    await guest.shell("cd /root/copy && sha256sum --quiet -c /root/sums && cd /")
    return guest.shell("wc -l </root/sums; sha256sum /root/sums; dpkg -s busybox-static | grep ^Status")
  })
  matches(second.text, /Status: install ok installed/, "the package that dpkg installed in the first session")
  same(second.text.startsWith(first.text), true, "list of checksums after the second boot")
  contentOf(path, "qcow2")
  run("sh", ["-c", `dd if="$1.read-back" of="$1.partition" bs=1M skip=1 status=none && e2fsck -fn "$1.partition"`, "sh", path])
  const files = first.text.split("\n")[0]
  return `debootstrap root: login after ${first.seconds} s and ${second.seconds} s, dpkg -i, ${files} files untarred and summed, ` +
    "clean shutdowns, e2fsck finds nothing"
}

/** What a person does at the guest's serial terminal. */
interface Terminal { login(): Promise<void>; shell(line: string): Promise<string> }

async function session(
  context: GuestContext, path: string, act: (terminal: Terminal) => Promise<string>,
): Promise<{ text: string; seconds: string }> {
  const started = performance.now()
  let seconds = ""
  const backing = open(path, "qcow2")
  const guest = await Guest.start({
    memory: 256 << 20,
    attach: (emulator) => attachToV86(emulator, backing, { serial: "debian" }),
    log: context.log,
  })
  const text = await act({
    login: async () => {
      await guest.expect(/login: $/)
      seconds = ((performance.now() - started) / 1000).toFixed(0)
      guest.emulator.serial0_send("root\n")
      await guest.expect(/# $/)
      guest.emulator.serial0_send("exec env PS1= dash\nstty -echo; dmesg -n 1; echo LOGGED''-IN\n") // without a line editor
      await guest.expect(/LOGGED-IN\s/)
    },
    shell: (line) => guest.command(line),
  })
  guest.emulator.serial0_send("shutdown -h now\n")
  await guest.expect(/System halted|Power down/)
  await guest.stop()
  backing.close()
  checkClean(path)
  return { text, seconds }
}

export const debianTests: readonly GuestTest[] = [
  { name: "debian", title: "a debootstrap root boots to a login, loads files, shuts down, boots again", limit: 480, run: debian },
]
