import { renderSubnetFile, type SubnetFileContent } from '../subnetfile.ts'

/**
 * Options for dockerd, the bytes that `mk-docker-opts.sh -k KEY` makes of the subnet file with this content: one
 * variable per option, then all of them under `key`, each with a space in front. Docker masquerades (`--ip-masq`)
 * exactly when flannel does not.
 */
export function renderDockerOptions(content: SubnetFileContent, key: string): string {
  const bridge = /^FLANNEL_SUBNET=(.*)$/m.exec(renderSubnetFile(content))?.[1] ?? ''
  const options = [
    ['BIP', `--bip=${bridge}`],
    ['IPMASQ', `--ip-masq=${!content.ipMasq}`],
    ['MTU', `--mtu=${content.mtu}`],
  ] as const
  const single = options.map(([name, option]) => `DOCKER_OPT_${name}="${option}"\n`).join('')
  const combined = options.map(([, option]) => ` ${option}`).join('')
  return `${single}${key}="${combined}"\n`
}
