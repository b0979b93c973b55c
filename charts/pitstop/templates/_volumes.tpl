{{/* For Puma's `volumeMounts`. */}}
{{- define "pitstop.volumeMounts" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{ include "pitstop.sharedMounts" . }}
{{- if $v.app.tmp }}
- name: pitstop-tmp
  mountPath: /tmp
{{- end }}
{{- if eq $v.beside "exec" }}
{{- include "pitstop.agentOwnMounts" . }}
{{- else if or $v.beside $v.token.existingSecret }}
- name: pitstop-state
  mountPath: {{ $v.config.state_dir }}
- name: pitstop-bin
  mountPath: /opt/pitstop
  readOnly: true
{{- end }}
{{- end }}

{{/* What both containers have, at the same paths. */}}
{{- define "pitstop.sharedMounts" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
- name: pitstop-releases
  mountPath: {{ $v.config.deploy_to }}
{{- with include "pitstop.currentDir" . }}
- name: pitstop-current
  mountPath: {{ . }}
{{- end }}
{{- with $v.config.puma.state_file }}
- name: pitstop-puma
  mountPath: {{ dir . }}
{{- end }}
{{- if $v.config.pod_dirs }}
- name: pitstop-pod
  mountPath: {{ $v.config.pod_dir }}
{{- end }}
{{- end }}

{{- define "pitstop.agentMounts" -}}
{{ include "pitstop.sharedMounts" . }}
{{- include "pitstop.agentOwnMounts" . }}
{{- end }}

{{/* What only the agent needs. */}}
{{- define "pitstop.agentOwnMounts" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") }}
- name: pitstop-state
  mountPath: {{ $v.config.state_dir }}
{{- if $v.token.enabled }}
- name: pitstop-token
  mountPath: /run/pitstop-token
  readOnly: true
{{- end }}
{{- if $v.notifications.signed }}
- name: pitstop-notify
  mountPath: /run/pitstop-notify
  readOnly: true
{{- end }}
{{- if $v.pointer.configMap.name }}
- name: pitstop-pointer
  mountPath: /etc/pitstop/pointer
  readOnly: true
{{- end }}
{{- if $v.store.volume }}
- name: pitstop-store
  mountPath: {{ $v.config.source }}
  {{- if $v.store.readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if or (eq $v.beside "exec") $v.agent.inAppImage }}
- name: pitstop-bin
  mountPath: /opt/pitstop
  readOnly: true
{{- end }}
{{- with $v.agent.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* For the pod's `volumes`. */}}
{{- define "pitstop.volumes" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
- name: pitstop-releases
  {{- include "pitstop.releasesVolume" . | nindent 2 }}
{{- if include "pitstop.currentDir" . }}
- name: pitstop-current
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.current }}
{{- end }}
{{- if $v.config.puma.state_file }}
- name: pitstop-puma
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.puma }}
{{- end }}
{{- if $v.config.pod_dirs }}
- name: pitstop-pod
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.pod }}
{{- end }}
{{- if $v.app.tmp }}
- name: pitstop-tmp
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.tmp }}
{{- end }}
- name: pitstop-state
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.state }}
{{- if $v.token.enabled }}
- name: pitstop-token
  {{- if $v.token.existingSecret }}
  secret:
    secretName: {{ $v.token.existingSecret }}
    items:
      - { key: token, path: token }
  {{- else }}
  downwardAPI:
    items:
      - path: token
        fieldRef:
          {{- /* The API server's own default: without it, `kubectl apply` finds a change each time. */}}
          apiVersion: v1
          fieldPath: metadata.annotations['pitstop/token']
  {{- end }}
{{- end }}
{{- if $v.notifications.signed }}
- name: pitstop-notify
  secret:
    secretName: {{ $v.notifications.existingSecret }}
    optional: true
    items:
      - { key: key, path: key }
{{- end }}
{{- with $v.pointer.configMap.name }}
- name: pitstop-pointer
  configMap:
    name: {{ . }}
    optional: true
{{- end }}
{{- with $v.store.volume }}
- name: pitstop-store
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if include "pitstop.hasBinary" . }}
- name: pitstop-bin
  emptyDir: {{ include "pitstop.sizeLimit" $v.sizeLimits.bin }}
{{- end }}
{{- end }}

{{/* An emptyDir with a limit, where there is one. */}}
{{- define "pitstop.sizeLimit" -}}
{{- if . }}{ sizeLimit: {{ . }} }{{ else }}{}{{ end }}
{{- end }}

{{- define "pitstop.releasesVolume" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if eq $v.releases.kind "emptyDir" -}}
emptyDir:
  sizeLimit: {{ $v.releases.size }}
{{- else if eq $v.releases.kind "ephemeral" -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      {{- include "pitstop.claim" (list . (list "ReadWriteOnce")) | nindent 6 }}
{{- else -}}
persistentVolumeClaim:
  claimName: {{ include "pitstop.claimName" . }}
{{- end }}
{{- end }}

{{/* The shared claim: the chart's own where it makes one; in your chart `releases.existingClaim` is needed instead. */}}
{{- define "pitstop.claimName" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if $v.releases.existingClaim }}{{ $v.releases.existingClaim }}{{ else if eq .Chart.Name "pitstop" }}{{ include "pitstop.fullname" . }}-releases{{ end }}
{{- end }}

{{/* A claim's spec. (list context modes) */}}
{{- define "pitstop.claim" -}}
{{- $ := index . 0 -}}
{{- $v := ternary $.Values $.Values.pitstop (eq $.Chart.Name "pitstop") -}}
accessModes: {{ default (index . 1) $v.releases.accessModes | toJson }}
{{- if $v.releases.storageClassName }}
storageClassName: {{ $v.releases.storageClassName }}
{{- else if and (eq $.Chart.Name "pitstop") $v.storageClass.create }}
storageClassName: {{ include "pitstop.storageClass" $ }}
{{- end }}
resources:
  requests:
    storage: {{ $v.releases.size }}
{{- end }}
