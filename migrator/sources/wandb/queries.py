"""The GraphQL documents that the source sends: those of wandb 0.31, without the fields that are not read here.

Names and variables are always those of the SDK and wandb-core, because servers are known to answer these.
`HistoryPage`, `RunParquetHistory` and `RunConsoleLogPage` are the documents inside wandb-core.
An old server refuses a whole document for one field that it does not know. `client` then leaves out the field if it is
one of `OPTIONAL`. The other fields are indispensable.
"""

from __future__ import annotations

#: fields that are omitted for servers that do not know them
OPTIONAL = frozenset(
    [
        *("entityName", "tags", "displayName", "sweepName", "state", "group", "jobType", "commit"),
        *("readOnly", "createdAt", "heartbeatAt", "description", "notes", "historyLineCount", "historyKeys", "user"),
        *("method", "totalCount", "metadata", "size", "digest", "aliases", "artifactType", "fileCount"),
        *("url", "directUrl", "sizeBytes", "md5", "logLineCount", "label", "level", "timestamp"),
        *("number", "runCount", "liveData"),
    ]
)

VIEWER = "query GetDefaultEntity { viewer { id entity } }"

ACCOUNT = "query GetViewer { viewer { id entity username teams { edges { node { name } } } } }"

SERVER_INFO = "query ServerInfo { serverInfo { latestLocalVersionInfo { versionOnThisInstanceString } } }"

PROJECTS = """
query GetProjects($entity: String, $cursor: String, $perPage: Int = 50) {
  models(entityName: $entity, after: $cursor, first: $perPage) {
    pageInfo { __typename endCursor hasNextPage }
    edges { node { __typename id name entityName } }
  }
}
"""

RUNS = """
query Runs($project: String!, $entity: String!, $cursor: String, $perPage: Int = 50, $order: String,
    $filters: JSONString) {
  project(name: $project, entityName: $entity) {
    runCount(filters: $filters)
    runs(filters: $filters, after: $cursor, first: $perPage, order: $order) {
      edges {
        node {
          id tags name displayName sweepName state group jobType createdAt heartbeatAt description notes
          historyLineCount config
        }
        cursor
      }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""

RUN_COUNT = """
query Runs($project: String!, $entity: String!, $filters: JSONString) {
  project(name: $project, entityName: $entity) { runCount(filters: $filters) }
}
"""

RUN = """
query Run($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $name) {
      ...RunFragment
    }
  }
}
fragment RunFragment on Run {
  id tags name displayName sweepName state config group jobType commit readOnly createdAt heartbeatAt description notes
  summaryMetrics historyLineCount historyKeys
  user { name username }
}
"""

SWEEP = """
query GetSweep($name: String!, $project: String, $entity: String) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $name) { __typename id name displayName method config }
  }
}
"""

PARQUET_HISTORY = """
query RunParquetHistory ($entity: String!, $project: String!, $runName: String!, $liveKeys: [String!]!) {
	project(name: $project, entityName: $entity) {
		run(name: $runName) {
			parquetHistory(liveKeys: $liveKeys) {
				parquetUrls
				liveData
			}
		}
	}
}
"""

HISTORY_PAGE = """
query HistoryPage ($entity: String!, $project: String!, $run: String!, $minStep: Int64!, $maxStep: Int64!,
    $pageSize: Int!) {
	project(name: $project, entityName: $entity) {
		run(name: $run) {
			history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize)
		}
	}
}
"""

EVENTS = """
query RunFullHistory($project: String!, $entity: String!, $name: String!, $samples: Int) {
  project(name: $project, entityName: $entity) {
    run(name: $name) { events(samples: $samples) }
  }
}
"""

CONSOLE_PAGE = """
query RunConsoleLogPage ($entity: String!, $project: String!, $runName: String!, $first: Int, $after: String) {
	project(name: $project, entityName: $entity) {
		run(name: $runName) {
			logLineCount
			logLines(first: $first, after: $after, useImprovedPagination: true) {
				edges {
					node {
						number
						timestamp
						level
						label
						line
					}
				}
				pageInfo {
					endCursor
					hasNextPage
				}
			}
		}
	}
}
"""

FILES = """
query RunFiles($project: String!, $entity: String!, $name: String!, $fileCursor: String,
    $fileLimit: Int = 50, $fileNames: [String] = [], $upload: Boolean = false, $pattern: String) {
  project(name: $project, entityName: $entity) {
    run(name: $name) {
      fileCount
      ...RunFilesFragment
    }
  }
}
fragment RunFilesFragment on Run {
  files(names: $fileNames, after: $fileCursor, first: $fileLimit, pattern: $pattern) {
    edges {
      node { id name url(upload: $upload) directUrl sizeBytes md5 }
      cursor
    }
    pageInfo { endCursor hasNextPage }
  }
}
"""

ARTIFACTS = """
query %s($entity: String!, $project: String!, $run: String!, $cursor: String, $perPage: Int) {
  project(entityName: $entity, name: $project) {
    run(name: $run) {
      artifacts: %s(after: $cursor, first: $perPage) {
        totalCount
        pageInfo { __typename endCursor hasNextPage }
        edges {
          node {
            __typename id versionIndex metadata state size digest createdAt
            artifactSequence { __typename name project { id name entity { name } } }
            artifactType { name }
            aliases { __typename id alias artifactCollection { __typename name } }
          }
        }
      }
    }
  }
}
"""
OUTPUT_ARTIFACTS = ARTIFACTS % ("RunOutputArtifacts", "outputArtifacts")
INPUT_ARTIFACTS = ARTIFACTS % ("RunInputArtifacts", "inputArtifacts")

MANIFEST = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

ARTIFACT_FILES = """
query GetArtifactMembershipFileUrls($entity: String!, $project: String!, $collection: String!, $alias: String!,
    $cursor: String, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    artifactCollection(name: $collection) {
      __typename
      artifactMembership(aliasName: $alias) {
        files(after: $cursor, first: $perPage) {
          pageInfo { __typename endCursor hasNextPage }
          edges { node { __typename name directUrl } }
        }
      }
    }
  }
}
"""
