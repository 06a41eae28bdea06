{{/* Values that the schema takes and that do not work. All are told at once, each with the way out. */}}
{{- define "portico.check" -}}
{{- $faults := list -}}
{{- if and .Values.rbac.create (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- $faults = append $faults "serviceAccount.create=false: set serviceAccount.name. Rights of the account \"default\" would be those of every pod in the namespace that names no other" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (ne .Values.kind "Deployment") -}}
{{- $faults = append $faults "autoscaling.enabled: a DaemonSet has one pod on each node; set kind to Deployment" -}}
{{- end -}}
{{- $faults = concat $faults (include "portico.portFaults" . | fromJsonArray) (include "portico.scaleFaults" . | fromJsonArray) (include "portico.envFaults" . | fromJsonArray) -}}
{{- range $name, $instead := include "portico.ownFlags" . | fromYaml -}}
{{- if hasKey (default dict $.Values.flags) $name -}}
{{- $faults = append $faults (printf "flags.%s: %s" $name $instead) -}}
{{- end -}}
{{- end -}}
{{- $ours := include "portico.labels" . | fromYaml -}}
{{- range $value, $labels := dict "podLabels" .Values.podLabels "serviceMonitor.labels" .Values.serviceMonitor.labels "dashboard.labels" .Values.dashboard.labels -}}
{{- range $label, $_ := $labels -}}
{{- if hasKey $ours $label -}}
{{- $faults = append $faults (printf "%s: %s is set by the chart; leave it out" $value $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.secrets.namespaces (eq .Values.secrets.scope "watched") -}}
{{- $faults = append $faults "secrets.namespaces: secrets.scope=watched reads Secrets wherever Ingresses are watched; set it to listed, or leave the namespaces out" -}}
{{- end -}}
{{- if and (eq .Values.secrets.scope "listed") .Values.watch.namespaces -}}
{{- range .Values.secrets.namespaces -}}
{{- if not (has . $.Values.watch.namespaces) -}}
{{- $faults = append $faults (printf "secrets.namespaces: %s is not one of watch.namespaces, so no Ingress can name a Secret there; leave it out, or watch it" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.acme.issuers (not .Values.acme.enabled) -}}
{{- $faults = append $faults "acme.issuers: acme.enabled is false, so nobody issues; set it, or leave the issuers out" -}}
{{- end -}}
{{- if .Values.acme.enabled -}}
{{- $faults = concat $faults (include "portico.acmeFaults" . | fromJsonArray) -}}
{{- end -}}
{{- $faults = concat $faults (include "portico.classFaults" . | fromJsonArray) -}}
{{- with include "portico.memoryFault" . -}}
{{- $faults = append $faults . -}}
{{- end -}}
{{- with $faults -}}
{{- fail (printf "\n%s" (join "\n" .)) -}}
{{- end -}}
{{- end -}}

{{/* Ports that are asked for twice, as a JSON list. */}}
{{- define "portico.portFaults" -}}
{{- $faults := list -}}
{{- with .Values.service -}}
{{- if eq (int .httpPort) (int .httpsPort) -}}
{{- $faults = append $faults (printf "service.httpPort, service.httpsPort: both are %d, and one port cannot serve both; set another one" (int .httpPort)) -}}
{{- end -}}
{{- if and .httpNodePort (eq (int .httpNodePort) (int .httpsNodePort)) -}}
{{- $faults = append $faults (printf "service.httpNodePort, service.httpsNodePort: both are %d, and one port cannot serve both; set another one, or 0 to have the cluster choose" (int .httpNodePort)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.hostPorts -}}
{{- if eq (int .http) (int .https) -}}
{{- $faults = append $faults (printf "hostPorts.http, hostPorts.https: both are %d, and one port cannot serve both; set another one" (int .http)) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* What is wrong with the number of pods, as a JSON list. */}}
{{- define "portico.scaleFaults" -}}
{{- $faults := list -}}
{{- $pods := int .Values.replicas -}}
{{- $value := "replicas" -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- $pods = int .minReplicas -}}
{{- $value = "autoscaling.minReplicas" -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- $faults = append $faults (printf "autoscaling.minReplicas: %d is more than autoscaling.maxReplicas=%d; lower the one or raise the other" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if not (or (dig "requests" "cpu" "" $.Values.resources) (dig "limits" "cpu" "" $.Values.resources)) -}}
{{- $faults = append $faults "autoscaling.targetCPUUtilizationPercentage: it is a part of resources.requests.cpu, which is empty, so nothing would be scaled; set that" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "portico.budgeted" . -}}
{{- $written := toString .Values.podDisruptionBudget.minAvailable -}}
{{- $kept := trimSuffix "%" $written | int -}}
{{- if hasSuffix "%" $written -}}
{{- $kept = div (add (mul $kept $pods) 99) 100 | int -}}
{{- end -}}
{{- if ge $kept $pods -}}
{{- $faults = append $faults (printf "podDisruptionBudget.minAvailable: %s of %s=%d leaves no pod to evict, so no node with one could be drained; lower it, raise %s, or set podDisruptionBudget.enabled=false" $written $value $pods $value) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* Variables that have no effect beside what the chart sets, as a JSON list. */}}
{{- define "portico.envFaults" -}}
{{- $faults := list -}}
{{- $own := include "portico.ownFlags" . | fromYaml -}}
{{- $given := dict -}}
{{- range include "portico.args" . | fromYamlArray -}}
{{- $flag := . | trimPrefix "--" | splitList "=" | first -}}
{{- $_ := set $given (printf "PORTICO_%s" ($flag | upper | replace "-" "_")) $flag -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if eq .name "GOMEMLIMIT" -}}
{{- $faults = append $faults "extraEnv: GOMEMLIMIT is set by the chart; set goMemLimit" -}}
{{- else if hasKey $given .name -}}
{{- $flag := get $given .name -}}
{{- $faults = append $faults (printf "extraEnv: %s has no effect beside the flag --%s, which the chart gives; %s" .name $flag (get $own $flag | default (printf "set flags.%s" $flag))) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* What is wrong with the class and its controller, beside the classes of the cluster, as a JSON list. */}}
{{- define "portico.classFaults" -}}
{{- $faults := list -}}
{{- $own := include "portico.controllerName" . -}}
{{- $served := include "portico.controllerNames" . | splitList "," -}}
{{- if gt (len $own) 250 -}}
{{- $faults = append $faults (printf "ingressClass.name: with portico.dev/ before it, it is the name of a controller, which has 250 characters at most; shorten it by %d, or set controllerNames" (sub (len $own) 250)) -}}
{{- end -}}
{{- range include "portico.classes" . | fromJsonArray -}}
{{- $name := .metadata.name -}}
{{- $release := dig "metadata" "annotations" "meta.helm.sh/release-name" "" . -}}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" . -}}
{{- $ours := and (eq $release $.Release.Name) (eq $namespace $.Release.Namespace) -}}
{{- if and $ours $.Values.ingressClass.create (eq $name $.Values.ingressClass.name) (ne .spec.controller $own) -}}
{{- $faults = append $faults (printf "ingressClass.name: the IngressClass %[1]s of this release has the controller %[2]s, and no IngressClass can get another; keep it with --set 'controllerNames={%[2]s}', or delete it first: kubectl delete ingressclass %[1]s" $name .spec.controller) -}}
{{- else if and $release (not $ours) (has .spec.controller $served) (hasPrefix "portico.dev/" .spec.controller) (ne (toString $.Values.publish.status) "false") -}}
{{- $faults = append $faults (printf "controllerNames: the IngressClass %s of the release %s in namespace %s has the controller %s too, so both releases would serve it and overwrite each other's status; set ingressClass.name to a name of your own, of which the controller is made, and controllerNames, if at all, to another one, or publish.status=false to serve it without writing" $name $release $namespace .spec.controller) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* The IngressClasses of the cluster, as a JSON list. Who may not create our ClusterRole may not list them. */}}
{{- define "portico.classes" -}}
{{- if .Values.rbac.create -}}
{{- dig "items" list (lookup "networking.k8s.io/v1" "IngressClass" "" "") | toJson -}}
{{- else -}}
{{- with lookup "networking.k8s.io/v1" "IngressClass" "" .Values.ingressClass.name -}}
{{- list . | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is wrong with the values of acme, as a JSON list. */}}
{{- define "portico.acmeFaults" -}}
{{- $faults := list -}}
{{- $names := list -}}
{{- range .Values.acme.issuers -}}
{{- if has .name $names -}}
{{- $faults = append $faults (printf "acme.issuers: %s is there twice; give each a name of its own" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if eq .Values.acme.namespace .Release.Namespace -}}
{{- $faults = append $faults (printf "acme.namespace: %s is the release's own namespace, and whoever may read Secrets there would have all account keys and certificates; name another one" .Release.Namespace) -}}
{{- end -}}
{{- if not $names -}}
{{- $faults = append $faults "acme.enabled: acme.issuers is empty, so nobody issues; name one" -}}
{{- else if and .Values.acme.default (not (has .Values.acme.default $names)) -}}
{{- $faults = append $faults (printf "acme.default: %s is not the name of one of acme.issuers" .Values.acme.default) -}}
{{- end -}}
{{- range .Values.acme.issuers -}}
{{- if and .ca (or .directory .staging) -}}
{{- $faults = append $faults (printf "acme.issuers: %s has both ca: true and directory or staging; leave out ca to have the ACME server issue, or the others for a CA of your own" .name) -}}
{{- else if not (or .ca .directory) -}}
{{- $faults = append $faults (printf "acme.issuers: %s has nobody who issues; give it directory, the URL of an ACME server, or ca: true for a CA of your own" .name) -}}
{{- end -}}
{{- $unheeded := list "lifetime" -}}
{{- if .ca -}}
{{- $unheeded = list "email" "eab" "caBundle" "profile" "preferredRoot" "challenges" "dns" "timeout" -}}
{{- end -}}
{{- $issuer := . -}}
{{- range $unheeded -}}
{{- if get $issuer . -}}
{{- $faults = append $faults (printf "acme.issuers: %s has %s, which is for %s; leave it out" $issuer.name . (ternary "ACME servers only" "a CA of your own only" (default false $issuer.ca))) -}}
{{- end -}}
{{- end -}}
{{- if and .caBundle (not (contains "-----BEGIN CERTIFICATE-----" .caBundle)) -}}
{{- $faults = append $faults (printf "acme.issuers: caBundle of %s is no PEM; give the certificates themselves and not a file's name: --set-file, or caBundle: |" .name) -}}
{{- end -}}
{{- if and (has "dns-01" (default list .challenges)) (not .dns) -}}
{{- $faults = append $faults (printf "acme.issuers: %s has the challenge dns-01 without dns; give dns: the provider that publishes it, or leave dns-01 out of challenges" .name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.acme.secrets.scope "listed") (not .Values.acme.secrets.namespaces) -}}
{{- $faults = append $faults "acme.secrets.scope=listed: acme.secrets.namespaces is empty, so no Secret is written; list namespaces, or set the scope to none" -}}
{{- end -}}
{{- if and .Values.acme.secrets.namespaces (ne .Values.acme.secrets.scope "listed") -}}
{{- $faults = append $faults (printf "acme.secrets.namespaces: acme.secrets.scope=%s does not heed them; set it to listed, or leave the namespaces out" .Values.acme.secrets.scope) -}}
{{- end -}}
{{- $read := include "portico.secretNamespaces" . -}}
{{- $written := include "portico.writtenNamespaces" . -}}
{{- if and (eq $written "*") (ne $read "*") -}}
{{- $faults = append $faults "acme.secrets.scope=watched: Secrets are read in secrets.namespaces only, and none is written that is not read; set it to listed, and acme.secrets.namespaces" -}}
{{- else if ne $read "*" -}}
{{- range splitList "," $written | compact -}}
{{- if not (has . (splitList "," $read)) -}}
{{- $faults = append $faults (printf "acme.secrets: no Secrets of namespace %s are read, so none is written there; list it in watch.namespaces, and in secrets.namespaces if secrets.scope is listed, or leave it out" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* Flags that do not belong into the value flags, and what to do instead. */}}
{{- define "portico.ownFlags" -}}
access-log: set log.access
access-log-format: set log.accessFormat
acme-issuers: set acme.issuers
acme-namespace: set acme.namespace
acme-write-secrets: set acme.secrets.scope
admin-addr: probes and metrics need port 9090; it cannot be changed
allow-external-names: set allowExternalNames
catch-all-namespaces: set catchAllNamespaces
cluster-domain: set clusterDomain
controller-name: set controllerNames
default-backend-service: set defaultBackendService
default-tls-secret: set defaultTLSSecret
drain-delay: set drain.delay, of which the pod's grace period is made too
drain-timeout: set drain.timeout, of which the pod's grace period is made too
host-ownership: set hostOwnership
http-addr: the pods listen on 8080; set service.httpPort or hostPorts.http
https-addr: the pods listen on 8443; set service.httpsPort or hostPorts.https
kubeconfig: the pods use their service account
leader-elect-lease: the chart names the Lease, which the Role names too
leader-elect-namespace: the Lease is in the release's namespace, like the Role
log-format: set log.format
log-level: set log.level
namespaces: set watch.namespaces
pod-labels: set publish.nodes
pod-namespace: set publish.nodes
proxy-protocol-from: set proxyProtocolFrom
publish-address: set publish.addresses
publish-node-addresses: set publish.nodes
publish-service: set publish.service
publish-status: set publish.status
require-backend-verification: set requireBackendVerification
secret-namespaces: set secrets.scope and secrets.namespaces
trusted-proxies: set trustedProxies
watch-without-class: set watch.withoutClass
{{- end -}}

{{- define "portico.memoryLimit" -}}
{{- dig "limits" "memory" "" .Values.resources | include "portico.bytes" -}}
{{- end -}}

{{/* Bytes of an amount of memory as Kubernetes or Go write it; empty if it is written otherwise. */}}
{{- define "portico.bytes" -}}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $amount := ternary (int64 .) . (kindIs "float64" .) | toString | trimSuffix "B" -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $amount -}}
{{- $unit := trimPrefix $number $amount -}}
{{- if and $number (hasKey $factors $unit) -}}
{{- mulf (float64 $number) (get $factors $unit) | floor | int64 -}}
{{- end -}}
{{- end -}}

{{/* GOMEMLIMIT: as set, or 90 % of the memory limit; empty without one. */}}
{{- define "portico.goMemLimit" -}}
{{- $limit := include "portico.memoryLimit" . -}}
{{- if .Values.goMemLimit -}}
{{- .Values.goMemLimit -}}
{{- else if $limit -}}
{{- printf "%dMiB" (div (mul (int64 $limit) 9) 10485760) -}}
{{- end -}}
{{- end -}}

{{- define "portico.memoryFault" -}}
{{- $written := dig "limits" "memory" "" .Values.resources -}}
{{- $limit := include "portico.memoryLimit" . -}}
{{- $soft := include "portico.bytes" .Values.goMemLimit -}}
{{- if and $limit $soft (gt (int64 $soft) (int64 $limit)) -}}
goMemLimit={{ .Values.goMemLimit }}: above resources.limits.memory={{ $written }}, the pod is killed before Go collects garbage; leave it empty for 90 % of the limit
{{- else if and $limit (lt (int64 $limit) 33554432) -}}
resources.limits.memory={{ $written }}: that is {{ $limit }} bytes, with which no pod starts; write it with its unit, as 512Mi, and 32Mi at least
{{- else if and $written (not $limit) (not .Values.goMemLimit) -}}
resources.limits.memory={{ $written }}: write it with Ki, Mi, Gi, k, M or G, or set goMemLimit
{{- end -}}
{{- end -}}
