// What the page shows at first, and what the tasks are for.

export const COMPARE = [
  "Play music and listen to the radio",
  "Musik abspielen und Radio hören",
  "Écouter de la musique et la radio",
  "Play chess against the computer",
  "Schach gegen den Computer spielen",
  "コンピューターとチェスをする",
  "Edit photos and pictures",
  "Modifier des photos et des images",
  "编辑照片和图像",
];

export const QUERIES = [
  "How do I record a radio programme?",
  "Where can I sort my photos?",
  "PDFを印刷したい",
  "Программа для прогноза погоды",
];

export const PASSAGES = [
  "Play chess alone, against the computer or against somebody over the network.",
  "Bilder einer Digitalkamera sortieren, beschriften und als Album zeigen.",
  "Écouter la radio sur Internet et enregistrer les émissions dans un fichier.",
  "Keeps a copy of your files on another disk every night.",
  "Un programa para aprender palabras de otro idioma con tarjetas.",
  "Показывает погоду на сегодня и на завтра для выбранного города.",
  "文書をPDFに変換して印刷します。",
  "查看这台计算机的处理器和内存的使用情况。",
];

// Two things are called "it", and only one of them works without the Internet.
export const QUESTION = "Does the Kalvis music player work without the Internet?";
export const DOCUMENT = [
  "Kalvis is a music player for Linux and Windows.",
  "It works without a connection to the Internet.",
  "Tarak is an editor for photos.",
  "It needs a connection to the Internet to start.",
].join(" ");

export const TASKS = {
  "retrieval.query": "For questions and search words; passages take retrieval.passage.",
  "retrieval.passage": "For the texts that are searched; questions take retrieval.query.",
  separation: "For grouping texts by what they are about.",
  classification: "For sorting texts into classes that you know.",
  "text-matching": "For how alike two texts are, in one or two languages.",
  base: "The model without an adapter: general vectors.",
};
