/** What the worker of the tests uses of the package, by relative paths. */
export { createQcow2 } from "../../../src/backing/qcow2/create.ts"
export { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
export { openQcow2Image } from "../../../src/backing/qcow2/open.ts"
export { opfsSyncFile } from "../../../src/backing/sources/opfs-sync-file.ts"
export { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
export { Machine } from "../../../src/vmm/machine.ts"
