/**
 * ACPI PCI hot-plug in a v86 machine with `acpi: true`. v86 has plain bytes in place of the event registers, and nothing at the hot-plug
 * ports. These read all ones, which SeaBIOS's tables take for a request to eject every PCI device, and Linux obeys.
 */
import { PCI_HOTPLUG_PORTS, PciHotplug, type PciHotplugOptions, SCI_LINE } from "../pci-hotplug.ts"
import { registerPort } from "./ports.ts"
import type { V86Acpi, V86Cpu } from "./v86.ts"

/**
 * Adds the registers of ACPI PCI hot-plug to the machine. Call it once, before firmware runs and reads which slots can be ejected.
 */
export function installAcpiHotplug(cpu: V86Cpu, acpi: V86Acpi, options: Omit<PciHotplugOptions, "sci">): PciHotplug {
  let raised = false
  // The PM timer shares the line, and v86 lowers it at each call of `timer`. So we raise it after each.
  const sci = (level: boolean): void => {
    raised = level
    if (!level && (acpi.pm1_status & acpi.pm1_enable) === 0) cpu.device_lower_irq(SCI_LINE)
  }
  const timer = acpi.timer.bind(acpi)
  acpi.timer = (now) => {
    const next = timer(now)
    if (raised) cpu.device_raise_irq(SCI_LINE)
    return next
  }
  const hotplug = new PciHotplug({ ...options, sci })
  for (const { start, end } of PCI_HOTPLUG_PORTS) {
    for (let port = start; port < end; port++) cpu.io.ports[port] = registerPort(hotplug, port)
  }
  return hotplug
}
