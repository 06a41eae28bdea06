{{/* Values that the schema takes and that do not work. All are told at once, each with the way out. */}}
{{- define "portico-node.check" -}}
{{- $faults := list -}}
{{- range $name, $instead := include "portico-node.ownFlags" . | fromYaml -}}
{{- if hasKey (default dict $.Values.flags) $name -}}
{{- $faults = append $faults (printf "flags.%s: %s" $name $instead) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if eq .name "PORTICO_NODE_NAME" -}}
{{- $faults = append $faults "extraEnv: PORTICO_NODE_NAME is set by the chart; leave it out" -}}
{{- else if eq .name "GOMEMLIMIT" -}}
{{- $faults = append $faults "extraEnv: GOMEMLIMIT is set by the chart; set goMemLimit" -}}
{{- end -}}
{{- end -}}
{{- with $faults -}}
{{- fail (printf "\n%s" (join "\n" .)) -}}
{{- end -}}
{{- end -}}

{{/* Flags that do not belong into the value flags, and what to do instead. */}}
{{- define "portico-node.ownFlags" -}}
apiserver: set apiserver.host and apiserver.port
cluster-cidr: set clusterCIDR
debug-addr: probes, show and trace need port 10247 of the loopback; it cannot be changed
detect-local-mode: set detectLocalMode
external-ips: set externalIPs
kubeconfig: the pods use their service account
lb-ips: set lbIPs
log-format: set log.format
log-level: set log.level
masquerade-all: set masqueradeAll
node-name: the pods are told the name of their node
nodeport-addresses: set nodePortAddresses
pod-bridge-interface: set podBridgeInterface
pod-interface-name-prefix: set podInterfaceNamePrefix
service-proxy-name: set serviceProxyName
set-sysctls: set setSysctls
sysctl-dir: set setSysctls, which mounts it
{{- end -}}
