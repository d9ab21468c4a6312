{{/* The name of what the release makes: the release's own where that says muster, else release-muster. */}}
{{- define "muster.name" -}}
{{- if contains "muster" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-muster" (.Release.Name | trunc 45 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/*
The name of what belongs to no namespace. An install for some namespaces may have others beside it under the
same release name; of a cluster-wide one there can only be one.
*/}}
{{- define "muster.clusterName" -}}
{{- if .Values.watchNamespaces -}}
{{- printf "%s-%s" (include "muster.name" .) .Release.Namespace -}}
{{- else -}}
{{- include "muster.name" . -}}
{{- end -}}
{{- end -}}

{{- define "muster.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "muster.name" .) -}}
{{- end -}}

{{- define "muster.selectorLabels" -}}
app.kubernetes.io/name: muster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "muster.labels" -}}
{{ include "muster.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: muster
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "muster.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{- define "muster.workerImage" -}}
{{ .Values.workerImage.repository }}:{{ .Values.workerImage.tag }}
{{- end -}}
