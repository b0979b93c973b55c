{{/* Where the agents' metrics are, for either kind of monitor. (list context interval) */}}
{{- define "pitstop.metricsEndpoint" -}}
{{- $ := index . 0 -}}
- port: pitstop
  path: /metrics
  interval: {{ index . 1 }}
  relabelings:
    # What tells one app from another in rules and dashboards.
    - targetLabel: app
      replacement: {{ include "pitstop.app" $ | quote }}
    - targetLabel: pointer
      replacement: {{ $.Values.config.pointer | quote }}
  {{- if $.Values.token.enabled }}
  authorization:
    type: Bearer
    credentials:
      name: {{ default (printf "%s-token" (include "pitstop.fullname" $)) $.Values.token.existingSecret }}
      key: token
  {{- end }}
{{- end }}
