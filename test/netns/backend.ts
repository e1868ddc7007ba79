/** A backend for demo and bench, by the environment variable BACKEND: a type, or the whole `Backend` object as JSON. */
export interface ChosenBackend {
  readonly config: { readonly Type: string }
  /** The device it makes, if any. */
  readonly device: string | undefined
}

/** flannel's own sample, which does what host-gw does. */
const EXTENSION = {
  Type: 'extension',
  SubnetAddCommand: 'ip route add $SUBNET via $PUBLIC_IP',
  SubnetRemoveCommand: 'ip route del $SUBNET via $PUBLIC_IP',
}

const DEVICES: Readonly<Record<string, string>> = {
  vxlan: 'flannel.1',
  ipip: 'flannel.ipip',
  wireguard: 'flannel-wg',
  udp: 'flannel0',
}

export function chosenBackend(text = process.env.BACKEND || 'vxlan'): ChosenBackend {
  const config = text.startsWith('{') ? JSON.parse(text) : text === 'extension' ? EXTENSION : { Type: text }
  return { config, device: DEVICES[config.Type] }
}
