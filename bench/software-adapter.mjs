// SwiftShader, Chromium's adapter in software, for Dawn in Node: imported for its effect before anything asks for an adapter, unless VK_DRIVER_FILES names another driver.

import { existsSync } from 'node:fs';

const driver = '/usr/lib/chromium/vk_swiftshader_icd.json';
if (process.env.VK_DRIVER_FILES === undefined && existsSync(driver)) {
  process.env.VK_DRIVER_FILES = driver;
  process.env.XDG_RUNTIME_DIR ??= '/tmp';
}

/** What Dawn is asked for: SwiftShader has an extension that it does not do right. */
export const DAWN = ['disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension'];
