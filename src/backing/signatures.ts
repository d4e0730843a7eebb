/**
 * How image files begin, format by format: what openImage does not take for a raw disk, and what a guest may not write over a raw
 * disk whose format was guessed.
 */

/** Formats that we do not read: the first bytes of a file, as Latin-1 text, and the format's name. */
export const FOREIGN_SIGNATURES: readonly (readonly [string, string])[] = [
  ["QED\0", "QED"],
  ["KDMV", "VMDK"],
  ["COWD", "VMDK"],
  ["# Disk DescriptorFile", "VMDK"],
  ["vhdxfile", "VHDX"],
  ["conectix", "VHD"],
  ["<<< ", "VDI"],
  ["WithoutFreeSpace", "Parallels"],
  ["WithouFreSpacExt", "Parallels"],
]

/** Of qcow (whose version 1 we do not read either) and qcow2. */
export const QCOW_SIGNATURE = "QFI\xfb"
