{{- define "portico.args" -}}
- controller
- --controller-name={{ include "portico.controllerNames" . }}
- --leader-elect-lease={{ include "portico.lease" . }}
- --leader-elect-namespace={{ .Release.Namespace }}
{{- with .Values.watch.namespaces }}
- --namespaces={{ join "," . }}
{{- end }}
{{- if eq .Values.secrets.scope "listed" }}
- --secret-namespaces={{ include "portico.secretNamespaces" . }}
{{- end }}
{{- if .Values.watch.withoutClass }}
- --watch-without-class
{{- end }}
{{- with .Values.defaultTLSSecret }}
- --default-tls-secret={{ . }}
{{- end }}
{{- with .Values.defaultBackendService }}
- --default-backend-service={{ . }}
{{- end }}
- --host-ownership={{ .Values.hostOwnership }}
{{- with .Values.catchAllNamespaces }}
- --catch-all-namespaces={{ join "," . }}
{{- end }}
{{- if .Values.allowExternalNames }}
- --allow-external-names
{{- end }}
{{- if .Values.requireBackendVerification }}
- --require-backend-verification
{{- end }}
{{- if .Values.acme.enabled }}
- --acme-issuers=/etc/portico/acme/issuers.yaml
- --acme-namespace={{ .Values.acme.namespace }}
- --acme-write-secrets={{ ne .Values.acme.secrets.scope "none" }}
{{- end }}
- --cluster-domain={{ .Values.clusterDomain }}
{{- with .Values.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- with .Values.proxyProtocolFrom }}
- --proxy-protocol-from={{ join "," . }}
{{- end }}
- --publish-status={{ .Values.publish.status }}
{{- if .Values.publish.addresses }}
- --publish-address={{ join "," .Values.publish.addresses }}
{{- else if .Values.publish.nodes }}
- --publish-node-addresses
- --pod-namespace={{ .Release.Namespace }}
- --pod-labels=app.kubernetes.io/name={{ include "portico.name" . }},app.kubernetes.io/instance={{ .Release.Name }}
{{- else if .Values.publish.service }}
- --publish-service={{ .Release.Namespace }}/{{ include "portico.fullname" . }}
{{- end }}
- --https-redirect-port={{ ternary .Values.hostPorts.https .Values.service.httpsPort (default false .Values.hostPorts.enabled) }}
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
- --access-log={{ .Values.log.access }}
- --access-log-format={{ .Values.log.accessFormat }}
- --drain-delay={{ .Values.drain.delay }}s
- --drain-timeout={{ .Values.drain.timeout }}s
{{- range $name, $value := .Values.flags }}
- {{ printf "--%s=%s" $name (include "portico.scalar" $value) | quote }}
{{- end }}
{{- end -}}

{{/* Numbers in a values file arrive as floating point, whose text 1.048576e+06 no flag takes. */}}
{{- define "portico.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "portico.pod" -}}
{{- $goMemLimit := include "portico.goMemLimit" . -}}
metadata:
  labels:
    {{- include "portico.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations .Values.acme.enabled }}
  annotations:
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if .Values.acme.enabled }}
    # Issuers are read once, when a pod starts.
    portico.dev/issuers: {{ include "portico.issuerFiles" . | sha256sum }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "portico.serviceAccount" . }}
  # Longer than the whole drain, so that only the drain's own deadline cuts.
  terminationGracePeriodSeconds: {{ add .Values.drain.delay .Values.drain.timeout 10 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: portico
      image: {{ include "portico.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- range (include "portico.args" . | fromYamlArray) }}
        - {{ . | quote }}
        {{- end }}
      {{- if or $goMemLimit .Values.extraEnv }}
      env:
        {{- with $goMemLimit }}
        - {name: GOMEMLIMIT, value: {{ . | quote }}}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
          {{- if .Values.hostPorts.enabled }}
          hostPort: {{ .Values.hostPorts.http }}
          {{- end }}
        - name: https
          containerPort: 8443
          {{- if .Values.hostPorts.enabled }}
          hostPort: {{ .Values.hostPorts.https }}
          {{- end }}
        - {name: admin, containerPort: 9090}
      # A pod that is about to go serves until its listeners close. Kubernetes
      # tells everybody that it goes; were it not ready as well, a node without
      # another one would drop what load balancers still send there.
      readinessProbe:
        httpGet: {path: "/readyz?exclude=shutdown", port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        # A pod that ends is withdrawn at once, whatever its probe says.
        failureThreshold: 3
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        failureThreshold: 6
      # kubectl describe pod then shows why it ended.
      terminationMessagePolicy: FallbackToLogsOnError
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        privileged: false
        capabilities: {drop: [ALL]}
      {{- if .Values.acme.enabled }}
      volumeMounts:
        - {name: issuers, mountPath: /etc/portico/acme, readOnly: true}
        {{- range (include "portico.issuerSecrets" . | fromYamlArray) }}
        - {name: {{ .volume }}, mountPath: /etc/portico/acme-secrets/{{ .volume }}, readOnly: true}
        {{- end }}
      {{- end }}
  {{- if .Values.acme.enabled }}
  volumes:
    - name: issuers
      configMap: {name: {{ include "portico.fullname" . }}-issuers}
    {{- range (include "portico.issuerSecrets" . | fromYamlArray) }}
    - name: {{ .volume }}
      secret:
        secretName: {{ .secret }}
        items: [{key: {{ .key | quote }}, path: key}]
    {{- end }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.kind "Deployment" }}
  # Of nodes alone: the scheduler scores only nodes that have the label of every
  # constraint, so one of zones would undo this one where nodes name none.
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      matchLabelKeys: [pod-template-hash] # pods that an update replaces do not count
      labelSelector:
        matchLabels:
          {{- include "portico.selector" . | nindent 10 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- else if eq .Values.kind "Deployment" }}
  # Over zones. Without effect, and without harm, where nodes name none.
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: topology.kubernetes.io/zone
            matchLabelKeys: [pod-template-hash]
            labelSelector:
              matchLabels:
                {{- include "portico.selector" . | nindent 16 }}
  {{- end }}
{{- end -}}
