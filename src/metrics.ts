import type { Routes } from './http.ts'
import type { View } from './view.ts'
export async function metricsRoutes(_view: View): Promise<Routes> {
  return {}
}
