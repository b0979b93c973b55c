{{/* The emptyDirs that may go with their pod, for the cluster autoscaler. */}}
{{- define "pitstop.localVolumes" -}}
{{- $names := list -}}
{{- range include "pitstop.volumes" . | fromYamlArray -}}
{{- if hasKey . "emptyDir" }}{{ $names = append $names .name }}{{ end -}}
{{- end -}}
{{- join "," $names }}
{{- end }}

{{/* The pod's annotations. Yours win, and no key is written twice. The agent reads its configuration when it starts, so a change of it
replaces the pods; the pointer's value has no part in that: it moves in the pods that run. */}}
{{- define "pitstop.wholeAnnotations" -}}
{{- $all := dict "checksum/config" (include "pitstop.environment" . | sha256sum) "kubectl.kubernetes.io/default-container" .Values.app.container -}}
{{- if eq .Values.releases.kind "emptyDir" -}}
{{- $_ := set $all "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" (include "pitstop.localVolumes" .) -}}
{{- end -}}
{{- mergeOverwrite $all (include "pitstop.podAnnotations" . | fromYaml) .Values.podAnnotations | toYaml }}
{{- end }}

{{/* A pod may wait for its first release, and then boot: a Deployment that gives up sooner is declared failed for nothing. */}}
{{- define "pitstop.progressDeadline" -}}
{{- $agent := mul .Values.agent.startup.periodSeconds .Values.agent.startup.failureThreshold -}}
{{- $app := mul .Values.app.startup.periodSeconds .Values.app.startup.failureThreshold -}}
{{- ternary (add $agent $app 60) (int .Values.progressDeadlineSeconds) (kindIs "invalid" .Values.progressDeadlineSeconds) }}
{{- end }}

{{/* Where pods may run, those of jobs and workers too. */}}
{{- define "pitstop.placement" -}}
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "hostAliases" "dnsConfig" "priorityClassName" }}
{{- with get $.Values $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pitstop.wholePod" -}}
serviceAccountName: {{ include "pitstop.serviceAccount" . }}
{{ include "pitstop.pod" . }}
securityContext:
  {{- mergeOverwrite (include "pitstop.podSecurityContext" . | fromYaml) .Values.podSecurityContext | toYaml | nindent 2 }}
{{- with include "pitstop.placement" . | trim }}
{{ . }}
{{- end }}
{{- range $key := list "affinity" "topologySpreadConstraints" }}
{{- with get $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
initContainers:
  {{- include "pitstop.initContainers" . | nindent 2 }}
  {{- with .Values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
containers:
  {{- include "pitstop.puma" . | nindent 2 }}
  {{- include "pitstop.containers" . | nindent 2 }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "pitstop.volumes" . | nindent 2 }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "pitstop.puma" -}}
{{- $current := include "pitstop.current" . -}}
- name: {{ .Values.app.container }}
  image: {{ .Values.app.image | quote }}
  imagePullPolicy: {{ .Values.app.imagePullPolicy }}
  command:
    {{- $command := list "sh" "-c" (printf "cd %s && exec bundle exec puma -C config/puma.rb" $current) }}
    {{- include "pitstop.command" (list . (default $command .Values.app.command)) | nindent 4 }}
  env:
    - name: PORT
      value: {{ .Values.app.port | quote }}
    - name: BUNDLE_GEMFILE
      value: {{ $current }}/Gemfile
    {{- with include "pitstop.env" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .Values.app.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or (eq .Values.beside "exec") .Values.app.envFrom }}
  envFrom:
    {{- if eq .Values.beside "exec" }}
    {{- include "pitstop.agentEnvFrom" . | trim | nindent 4 }}
    {{- end }}
    {{- with .Values.app.envFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  ports:
    - name: http
      containerPort: {{ int .Values.app.port }}
    {{- if eq .Values.beside "exec" }}
    - name: pitstop
      containerPort: {{ int .Values.agent.port }}
    {{- end }}
  {{- if and (eq .Values.beside "exec") (include "pitstop.asksReady" .) }}
  startupProbe:
    httpGet:
      path: /ready
      port: pitstop
    {{- include "pitstop.probeTimes" .Values.app.startup | nindent 4 }}
  {{- else if .Values.app.healthPath }}
  startupProbe:
    {{- include "pitstop.healthProbe" (list . .Values.app.startup) | nindent 4 }}
  {{- end }}
  {{- if .Values.app.healthPath }}
  readinessProbe:
    {{- include "pitstop.healthProbe" (list . .Values.app.readiness) | nindent 4 }}
  {{- if .Values.app.liveness.enabled }}
  livenessProbe:
    {{- include "pitstop.healthProbe" (list . .Values.app.liveness) | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with default (include "pitstop.lifecycle" . | fromYaml) .Values.app.lifecycle }}
  lifecycle:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- mergeOverwrite (include "pitstop.securityContext" . | fromYaml) .Values.app.securityContext | toYaml | nindent 4 }}
  {{- with .Values.app.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "pitstop.volumeMounts" . | nindent 4 }}
    {{- with .Values.app.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "pitstop.healthProbe" -}}
{{- $ := index . 0 -}}
{{- $probe := index . 1 -}}
httpGet:
  path: {{ $.Values.app.healthPath }}
  port: http
{{ include "pitstop.probeTimes" $probe }}
{{- end }}

{{- define "pitstop.probeTimes" -}}
periodSeconds: {{ int .periodSeconds }}
failureThreshold: {{ int .failureThreshold }}
timeoutSeconds: {{ default 5 .timeoutSeconds | int }}
{{- end }}
