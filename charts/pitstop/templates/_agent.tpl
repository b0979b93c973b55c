{{- define "pitstop.image" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- with $v.agent.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default (include "pitstop.version" .) .tag }}
{{- end }}
{{- end }}
{{- end }}

{{/* The security context of each container, the agent's and Puma's: the same, so that one may look into the other and signal it. */}}
{{- define "pitstop.securityContext" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
runAsUser: {{ int $v.runAs.user }}
runAsGroup: {{ int $v.runAs.group }}
runAsNonRoot: {{ ne (int $v.runAs.user) 0 }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What the agent and `pitstop fetch` have in common. (list context "run"|"fetch") */}}
{{- define "pitstop.container" -}}
{{- $ := index . 0 -}}
{{- $does := index . 1 -}}
{{- $v := ternary $.Values $.Values.pitstop (eq $.Chart.Name "pitstop") -}}
- name: {{ ternary "pitstop" "pitstop-fetch" (eq $does "run") }}
  {{- if $v.agent.inAppImage }}
  image: {{ $v.app.image | quote }}
  imagePullPolicy: {{ $v.app.imagePullPolicy }}
  command: [/opt/pitstop/pitstop, {{ $does }}]
  {{- else }}
  image: {{ include "pitstop.image" $ | quote }}
  imagePullPolicy: {{ $v.agent.image.pullPolicy }}
  args: [{{ $does }}]
  {{- end }}
  {{- with include "pitstop.agentEnvFrom" $ | trim }}
  envFrom:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "pitstop.agentEnv" $ | trim }}
  env:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The agent's variables, where no ConfigMap holds them; where the pod is, by the downward API; and yours. */}}
{{- define "pitstop.agentEnv" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if not (include "pitstop.configMapName" .) }}
{{- range $name, $value := include "pitstop.environment" . | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- /* A label that the pod has not is an empty text, and a key that is not set. */}}
{{- range $key, $path := dict "address" "status.podIP" "node" "spec.nodeName" "zone" "metadata.labels['topology.kubernetes.io/zone']" }}
{{- if not (get $v.config $key) }}
- name: PITSTOP_{{ upper $key }}
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: {{ $path }}
{{- end }}
{{- end }}
{{- with $v.notifications.existingSecret }}
- name: PITSTOP_NOTIFY_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
      optional: true
{{- end }}
{{- with $v.agent.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "pitstop.agentEnvFrom" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- with include "pitstop.configMapName" . }}
- configMapRef:
    name: {{ . }}
{{- end }}
{{- with $v.agent.envFrom }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The ConfigMap that a whole app has for its agent; in your chart the variables stand in the container. */}}
{{- define "pitstop.configMapName" -}}
{{- if eq .Chart.Name "pitstop" -}}
{{ include "pitstop.fullname" . }}
{{- end }}
{{- end }}

{{- define "pitstop.agentRest" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
securityContext:
  {{- include "pitstop.securityContext" . | nindent 2 }}
resources:
  {{- toYaml $v.agent.resources | nindent 2 }}
volumeMounts:
  {{- include "pitstop.agentMounts" . | nindent 2 }}
{{- end }}

{{/* Whether the pod waits for the agent's /ready before it gets requests: "true" or nothing. */}}
{{- define "pitstop.asksReady" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- $warms := (default dict $v.config.warmup).requests -}}
{{- if ternary $warms $v.agent.readiness.enabled (kindIs "invalid" $v.agent.readiness.enabled) }}true{{ end }}
{{- end }}

{{/* The sidecar itself. No liveness probe: a restart in mid-drain would do more harm than good. A readiness probe only where the pod
waits for a warm-up; /ready answers yes from then on, and an agent that does not answer takes no pod out of service. No preStop
hook: a native one would be called while Puma's is still waiting. */}}
{{- define "pitstop.agent" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{ include "pitstop.container" (list . "run") }}
  {{- if eq $v.agent.kind "native" }}
  restartPolicy: Always
  {{- end }}
  ports:
    - name: pitstop
      containerPort: {{ int $v.agent.port }}
  {{- if eq $v.agent.kind "native" }}
  startupProbe:
    httpGet:
      path: /startup
      port: {{ int $v.agent.port }}
    periodSeconds: {{ int $v.agent.startup.periodSeconds }}
    failureThreshold: {{ int $v.agent.startup.failureThreshold }}
    timeoutSeconds: 5
  {{- end }}
  {{- if include "pitstop.asksReady" . }}
  readinessProbe:
    httpGet:
      path: /ready
      port: {{ int $v.agent.port }}
    periodSeconds: {{ int $v.agent.readiness.periodSeconds }}
    # One success counts for good: an agent that hangs is not why a pod gets no requests.
    failureThreshold: 1000000
    timeoutSeconds: 5
  {{- end }}
  {{- include "pitstop.agentRest" . | nindent 2 }}
{{- end }}

{{/* For `initContainers`: what copies the binary to where Puma's container finds it; the native sidecar, or what puts the first
release in place for a classic one. */}}
{{- define "pitstop.initContainers" -}}
{{- include "pitstop.refuse" . -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if include "pitstop.hasBinary" . -}}
- name: pitstop-install
  image: {{ include "pitstop.image" . | quote }}
  imagePullPolicy: {{ $v.agent.image.pullPolicy }}
  args: [install, /opt/pitstop/]
  securityContext:
    {{- include "pitstop.securityContext" . | nindent 4 }}
  resources:
    {{- toYaml $v.agent.resources | nindent 4 }}
  volumeMounts:
    - name: pitstop-bin
      mountPath: /opt/pitstop
{{ end -}}
{{- if eq $v.beside "exec" -}}
{{- else if eq $v.agent.kind "native" -}}
{{ include "pitstop.agent" . }}
{{- else -}}
{{ include "pitstop.container" (list . "fetch") }}
  {{- include "pitstop.agentRest" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* For `containers`, after Puma's: the classic sidecar; nothing for a native one. */}}
{{- define "pitstop.containers" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if and (eq $v.agent.kind "classic") (ne $v.beside "exec") -}}
{{ include "pitstop.agent" . }}
{{- end }}
{{- end }}

{{/* Whether Puma's container (its hook too), or the agent in its image, runs the binary from an emptyDir: "true" or nothing. */}}
{{- define "pitstop.hasBinary" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if or $v.beside $v.agent.inAppImage $v.token.existingSecret }}true{{ end }}
{{- end }}

{{/* The container that the agent is in, and what starts pitstop there. */}}
{{- define "pitstop.agentContainer" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- ternary $v.app.container "pitstop" (eq $v.beside "exec") }}
{{- end }}

{{- define "pitstop.program" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- ternary "/opt/pitstop/pitstop" "pitstop" (or (eq $v.beside "exec") $v.agent.inAppImage) }}
{{- end }}
