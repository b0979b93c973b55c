{{/* For the pod's spec: what both containers rely on. */}}
{{- define "pitstop.pod" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
terminationGracePeriodSeconds: {{ int $v.gracePeriodSeconds }}
shareProcessNamespace: true
{{- if not (kindIs "invalid" $v.automountServiceAccountToken) }}
automountServiceAccountToken: {{ $v.automountServiceAccountToken }}
{{- end }}
{{- end }}

{{/* For the pod's `securityContext`. No user here: the pause process would have it too, and pass for one that may be signalled. */}}
{{- define "pitstop.podSecurityContext" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
fsGroup: {{ int $v.runAs.group }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{/* For the pod's annotations: the token, which the agent reads from there. */}}
{{- define "pitstop.podAnnotations" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
{{- if $v.token.enabled -}}
pitstop/token: {{ $v.token.value | quote }}
{{- end }}
{{- end }}

{{/* For Puma's `lifecycle`. The port is a number: a name would be looked for in Puma's own container. */}}
{{- define "pitstop.lifecycle" -}}
{{- $v := ternary .Values .Values.pitstop (eq .Chart.Name "pitstop") -}}
preStop:
  httpGet:
    path: /prestop
    port: {{ int $v.agent.port }}
    {{- if $v.token.enabled }}
    httpHeaders:
      - name: Authorization
        value: {{ printf "Bearer %s" $v.token.value | quote }}
    {{- end }}
{{- end }}
