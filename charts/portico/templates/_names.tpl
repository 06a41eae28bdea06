{{- define "portico.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 50 characters: with the longest suffix, "-clear-status", it is a label of 63. */}}
{{- define "portico.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "portico.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "portico.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "portico.selector" -}}
app.kubernetes.io/name: {{ include "portico.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portico.labels" -}}
{{ include "portico.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "portico.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "portico.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "portico.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The Lease's name is fixed here, so that the Role can name it. */}}
{{- define "portico.lease" -}}
{{ include "portico.fullname" . }}-leader
{{- end -}}

{{/* The controllers that are served, separated by commas; the first is our own. */}}
{{- define "portico.controllerNames" -}}
{{- if .Values.controllerNames -}}
{{- join "," .Values.controllerNames -}}
{{- else if eq .Values.ingressClass.name "portico" -}}
portico.dev/ingress-controller
{{- else -}}
portico.dev/{{ .Values.ingressClass.name }}
{{- end -}}
{{- end -}}

{{- define "portico.controllerName" -}}
{{- include "portico.controllerNames" . | splitList "," | first -}}
{{- end -}}

{{- define "portico.publishesService" -}}
{{- if and .Values.publish.service (not .Values.publish.addresses) (not .Values.publish.nodes) -}}true{{- end -}}
{{- end -}}

{{/* Namespaces in which Secrets may be read; "*" for all. */}}
{{- define "portico.secretNamespaces" -}}
{{- if eq .Values.secrets.scope "listed" -}}
{{- join "," (default list .Values.secrets.namespaces) -}}
{{- else if .Values.watch.namespaces -}}
{{- join "," .Values.watch.namespaces -}}
{{- else -}}
*
{{- end -}}
{{- end -}}

{{/* Namespaces in which certificates are written into Secrets; "*" for all. */}}
{{- define "portico.writtenNamespaces" -}}
{{- if not .Values.acme.enabled -}}
{{- else if eq .Values.acme.secrets.scope "listed" -}}
{{- join "," .Values.acme.secrets.namespaces -}}
{{- else if eq .Values.acme.secrets.scope "watched" -}}
{{- default "*" (join "," .Values.watch.namespaces) -}}
{{- end -}}
{{- end -}}
